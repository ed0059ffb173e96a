package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"synapse-keeper.dev/cluster/cluster/proc"
)

// down leaves nothing of the cluster, in whatever state it is: not only what works can be taken down.
// What uses something ends before what it uses; an error does not stop the rest.
func (a *app) down() error {
	c := a.cluster
	p := newProgress(os.Stdout, 4)
	var failed []error
	step := func(title string, do func() error) {
		failed = append(failed, p.Step(title, func(noteFunc) error { return do() }))
	}
	step("node and containers", func() error {
		return errors.Join(c.stop("provisioner", "coredns", "kube-proxy", "kubelet"), c.removeContainers())
	})
	step("control plane", func() error {
		return errors.Join(c.stop("forward"), c.stopControlPlane())
	})
	step("container runtime, mounts, control groups", func() error {
		return errors.Join(c.stop("containerd"), c.endLeftovers(), c.unmount(), removeCgroups(c.cgroup()))
	})
	step("network, files, kernel settings", func() error {
		var err error
		if c.network().Exists() {
			err = c.network().Delete()
		}
		return errors.Join(err, c.removeFiles())
	})
	return errors.Join(failed...)
}

func (c *Cluster) stop(names ...string) error {
	var failed []error
	for _, name := range names {
		failed = append(failed, c.processes().Stop(name, 15*time.Second))
	}
	return errors.Join(failed...)
}

// stopControlPlane ends etcd last: without it the API server would linger for a minute.
func (c *Cluster) stopControlPlane() error {
	return c.stop("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
}

// ctr talks to the cluster's containerd.
func (c *Cluster) ctr(args ...string) *exec.Cmd {
	ctr := c.path("bin", "ctr")
	return exec.Command(ctr, append([]string{"--address", c.containerdSocket(), "--namespace", "k8s.io"}, args...)...)
}

// removeContainers does what the kubelet would: containers outlive whoever started them.
func (c *Cluster) removeContainers() error {
	if !c.processes().Alive("containerd") {
		return nil // endLeftovers finds them
	}
	for _, kind := range []struct {
		name   string
		remove []string
	}{
		{"tasks", []string{"tasks", "delete", "--force"}},
		{"containers", []string{"containers", "delete"}},
		{"sandboxes", []string{"sandboxes", "remove", "--force"}},
	} {
		if err := c.removeAll(kind.name, kind.remove); err != nil {
			return err
		}
	}
	return nil
}

// removeAll tries more than once: containerd clears up after a container that ends, and may be quicker than we are.
func (c *Cluster) removeAll(kind string, remove []string) error {
	for tries := 10; ; tries-- {
		list, err := c.ctr(kind, "list").Output()
		if err != nil {
			return commandError("ctr "+kind+" list", err)
		}
		var ids []string
		for _, line := range strings.Split(string(list), "\n")[1:] { // below the heading
			if columns := strings.Fields(line); len(columns) > 0 {
				ids = append(ids, columns[0])
			}
		}
		if len(ids) == 0 {
			return nil
		}
		out, err := c.ctr(append(remove, ids...)...).CombinedOutput()
		if err != nil && tries == 0 {
			return fmt.Errorf("ctr %s: %w\n%s", strings.Join(remove, " "), err, out)
		}
	}
}

// endLeftovers ends what runs on when containerd could not be asked any more: shims, and all in our control groups.
func (c *Cluster) endLeftovers() error {
	var failed []error
	for _, pid := range proc.Running("containerd-shim-runc-v2") {
		arguments, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(arguments), c.containerdSocket()) { // other clusters run the same program
			failed = append(failed, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return errors.Join(append(failed, killCgroups(c.cgroup()))...)
}

// unmount removes the mounts below the cluster's folder, the last made first.
func (c *Cluster) unmount() error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	var points []string
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		point := strings.Fields(lines.Text())[4]
		if strings.HasPrefix(point, c.Dir+"/") {
			points = append(points, point)
		}
	}
	for _, point := range slices.Backward(points) {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}

// removeFiles removes the cluster's folder, and what the kubelet and CNI keep at fixed places.
func (c *Cluster) removeFiles() error {
	links, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, c.Dir+"/") {
			os.Remove(link)
		}
	}
	results, _ := filepath.Glob("/var/lib/cni/results/*")
	for _, result := range results {
		if data, err := os.ReadFile(result); err == nil && strings.Contains(string(data), c.Dir+"/") {
			os.Remove(result)
		}
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return err
	}
	if err := removeDeadSockets("/run/containerd/s"); err != nil {
		return err
	}
	// A pattern's * takes names with a dot in front as well, such as that of the settings.
	if others, _ := filepath.Glob(filepath.Join(clusterRoot, "[^.]*")); len(others) > 0 {
		return nil
	}
	if err := restoreSettings(); err != nil {
		return err
	}
	for _, empty := range []string{
		clusterRoot, "/var/log/containers", "/var/lib/cni/results", "/var/lib/cni", "/run/containerd/s", "/run/containerd",
	} {
		syscall.Rmdir(empty)
	}
	return nil
}

// removeDeadSockets removes those that shims left behind: a socket that no process has open is nobody's.
func removeDeadSockets(dir string) error {
	open, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	sockets, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, socket := range sockets {
		if !strings.Contains(string(open), socket) {
			os.Remove(socket)
		}
	}
	return nil
}
