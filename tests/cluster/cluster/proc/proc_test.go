package proc

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func folder(t *testing.T) Folder {
	return Folder{Records: t.TempDir(), Logs: t.TempDir()}
}

func start(t *testing.T, f Folder, p Process) bool {
	t.Helper()
	started, err := f.Ensure(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Stop(p.Name, time.Second) })
	return started
}

func TestStartedOnce(t *testing.T) {
	f, sleeper := folder(t), Process{Name: "sleeper", Args: []string{"sleep", "60"}}
	if !start(t, f, sleeper) || start(t, f, sleeper) {
		t.Error("want one start")
	}
	first, _ := f.read("sleeper")
	sleeper.Args[1] = "61"
	if !start(t, f, sleeper) {
		t.Error("other arguments must start it anew")
	}
	if !WaitGone(first.Pid, first.Start, time.Second) {
		t.Error("the old process still runs")
	}
}

func TestStopped(t *testing.T) {
	f := folder(t)
	start(t, f, Process{Name: "stubborn", Args: []string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"}})
	if err := f.Wait("stubborn", 5*time.Second, func() error {
		if log, _ := os.ReadFile(f.Log("stubborn")); string(log) != "ready\n" {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Stop("stubborn", 200*time.Millisecond); err != nil || f.Alive("stubborn") {
		t.Error("it lives:", err)
	}
	if err := f.Stop("stubborn", time.Second); err != nil {
		t.Error("a second stop:", err)
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	f := folder(t)
	start(t, f, Process{Name: "other", Args: []string{"sleep", "60"}})
	r, _ := f.read("other")
	reused := strings.Replace(`{"Pid": PID, "Start": "1"}`, "PID", strconv.Itoa(r.Pid), 1)
	if err := os.WriteFile(f.file("ours"), []byte(reused), 0o644); err != nil {
		t.Fatal(err)
	}
	if f.Alive("ours") {
		t.Error("another process with our old number counts as ours")
	}
	if err := f.Stop("ours", time.Second); err != nil {
		t.Error(err)
	}
	if !f.Alive("other") {
		t.Error("another process was ended")
	}
}

func TestWaitShowsWhatFailed(t *testing.T) {
	f := folder(t)
	start(t, f, Process{Name: "failing", Args: []string{"sh", "-c", "echo no such flag; exit 1"}})
	err := f.Wait("failing", 5*time.Second, func() error { return errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("got %v", err)
	}
}
