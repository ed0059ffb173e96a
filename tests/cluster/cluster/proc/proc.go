// Package proc starts background processes, remembers them in files, and ends those and no others.
package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is something to run in the background.
type Process struct {
	Name string
	Args []string // the program first
	Env  []string // in addition to our own
}

// Folder holds a record and a log of each process that was started.
type Folder struct {
	Records, Logs string
}

// record is enough to know a process again: a number is given to another process in time, but not with the same start.
type record struct {
	Pid   int
	Start string
	Args  []string
	Env   []string
}

// Log is the file that a process writes its output to.
func (f Folder) Log(name string) string { return filepath.Join(f.Logs, name+".log") }

func (f Folder) file(name string) string { return filepath.Join(f.Records, name+".json") }

// Ensure starts the process, unless it runs already with the same arguments. It tells whether it did.
func (f Folder) Ensure(p Process) (started bool, err error) {
	if r, alive := f.read(p.Name); alive {
		if slices.Equal(r.Args, p.Args) && slices.Equal(r.Env, p.Env) {
			return false, nil
		}
		if err := f.Stop(p.Name, 30*time.Second); err != nil {
			return false, err
		}
	}
	log, err := os.OpenFile(f.Log(p.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return false, err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	// Waited for, or it would stay as a zombie and seem alive for as long as we run.
	go cmd.Wait()
	data, err := json.Marshal(record{cmd.Process.Pid, startOf(cmd.Process.Pid), p.Args, p.Env})
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(f.file(p.Name), data, 0o644)
}

// Alive tells whether the process that was started under this name still runs.
func (f Folder) Alive(name string) bool {
	_, alive := f.read(name)
	return alive
}

// Stop asks the process to end, waits, and kills it when it takes too long.
func (f Folder) Stop(name string, patience time.Duration) error {
	r, alive := f.read(name)
	if alive {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			if err := syscall.Kill(r.Pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending %s (process %d): %w", name, r.Pid, err)
			}
			if WaitGone(r.Pid, r.Start, patience) {
				alive = false
				break
			}
		}
	}
	if alive {
		return fmt.Errorf("%s (process %d) does not end", name, r.Pid)
	}
	if err := os.Remove(f.file(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// WaitGone waits until the process has ended.
func WaitGone(pid int, start string, patience time.Duration) bool {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if startOf(pid) != start {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Wait asks until the answer is good. It gives up when the time is over or the process has ended,
// and then says what the process wrote last.
func (f Folder) Wait(name string, patience time.Duration, good func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := good()
		if err == nil {
			return nil
		}
		if !f.Alive(name) {
			return fmt.Errorf("%s has ended\n%s", name, f.tail(name))
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready after %s: %w\n%s", name, patience, err, f.tail(name))
		}
	}
}

func (f Folder) tail(name string) string {
	data, _ := os.ReadFile(f.Log(name))
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return fmt.Sprintf("the end of %s:\n%s", f.Log(name), strings.Join(lines, "\n"))
}

func (f Folder) read(name string) (r record, alive bool) {
	data, err := os.ReadFile(f.file(name))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return r, false
	}
	return r, r.Start != "" && startOf(r.Pid) == r.Start
}

// startOf is when the process was started, in ticks since boot; empty when it has ended.
func startOf(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The second field is the program's name in brackets and may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

// Running lists the processes whose program has this name, in whatever folder, whoever started them.
func Running(program string) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && filepath.Base(target) == program {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			pids = append(pids, pid)
		}
	}
	return pids
}
