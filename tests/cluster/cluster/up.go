package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"synapse-keeper.dev/cluster/cluster/proc"
)

// up brings the cluster from whatever state it is in to one that works.
// Every step leaves alone what is there already, so that it can be repeated.
func (a *app) up() error {
	c := a.cluster
	ours := a.loadOurs
	if c.processes().Alive("containerd") {
		ours = leaveOurs
	}
	p := newProgress(os.Stdout, 8)
	steps := []struct {
		title string
		do    func(note noteFunc) error
	}{
		{"Debian packages", ensureDebianPackages},
		{"programs from Go modules", a.buildPrograms},
		{"network, keys, configuration", c.prepare},
		{"control plane", c.startControlPlane},
		{"container runtime", a.startRuntime},
		{"node", c.startNode},
		{"images", a.loadImages},
		{"our images", ours},
	}
	for _, step := range steps {
		if err := p.Step(step.title, step.do); err != nil {
			return err
		}
	}
	fmt.Printf("cluster %s is up after %s: KUBECONFIG=%s\n", c.Name, p.Elapsed(), c.adminKubeconfig())
	return nil
}

// leaveOurs is for a cluster that was up: someone may be testing with the images that are in it.
func leaveOurs(note noteFunc) error {
	note("left as they are: make cluster-load")
	return nil
}

func (c *Cluster) prepare(note noteFunc) error {
	if err := c.makeFolders(); err != nil {
		return err
	}
	if err := prepareSettings(); err != nil {
		return err
	}
	if !c.network().Exists() {
		note("network namespace %s", c.network())
		if err := c.network().Create(nodeBridge, nodeAddress+"/24"); err != nil {
			return err
		}
	}
	if err := makeCgroups(c.cgroup()); err != nil {
		return err
	}
	port, err := c.forwardedPort()
	if err != nil {
		return err
	}
	if err := c.writeCertificates(port); err != nil {
		return err
	}
	if err := c.writeConfig(); err != nil {
		return err
	}
	if err := os.Rename(c.config("pods.conflist"), c.path("cni", "pods.conflist")); err != nil {
		return err
	}
	return c.linkPrograms(note)
}

// linkPrograms gives the shell wrappers a fixed path to the programs.
func (c *Cluster) linkPrograms(note noteFunc) error {
	link := c.path("bin")
	old, err := os.Readlink(link)
	if old == c.Programs {
		return nil
	}
	if err == nil {
		note("the programs are new: the control plane starts again")
		if err := errors.Join(c.stopControlPlane(), os.Remove(link)); err != nil {
			return err
		}
	}
	return os.Symlink(c.Programs, link)
}

func (c *Cluster) startControlPlane(note noteFunc) error {
	note("etcd")
	if err := c.start(c.etcd()); err != nil {
		return err
	}
	note("API server")
	if err := c.start(c.apiserver()); err != nil {
		return err
	}
	if err := c.startForwarder(); err != nil {
		return err
	}
	note("controllers, scheduler, DNS, volumes")
	if err := c.start(c.controllerManager(), c.scheduler(), c.coredns(), c.provisioner()); err != nil {
		return err
	}
	note("")
	return c.kubectl("apply", "-f", c.config("standard.yaml"))
}

func (c *Cluster) startNode(note noteFunc) error {
	note("kubelet")
	if err := c.start(c.kubelet(), c.proxy()); err != nil {
		return err
	}
	note("waiting for it to be ready")
	ready := func() error { return c.kubectl("wait", "--for=condition=Ready", "--timeout=5s", "node/"+nodeName) }
	if err := c.processes().Wait("kubelet", time.Minute, ready); err != nil {
		return err
	}
	// Without this account no Pod can be made in the namespace.
	account := func() error { return c.kubectl("get", "serviceaccount", "default") }
	if err := c.processes().Wait("kube-controller-manager", time.Minute, account); err != nil {
		return err
	}
	note("%s is ready", nodeName)
	return nil
}

// kubectl runs quietly, as the administrator.
func (c *Cluster) kubectl(args ...string) error {
	cmd := exec.Command(c.program("kubectl"), append([]string{"--kubeconfig", c.adminKubeconfig()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// forwardedPort is the port of the machine's loopback interface that leads to the API server.
// It is chosen once in a cluster's life.
func (c *Cluster) forwardedPort() (string, error) {
	file := c.path("run", "port")
	if port, err := os.ReadFile(file); err == nil {
		return string(port), nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, os.WriteFile(file, []byte(port), 0o644))
}

// startForwarder runs this program once more: `cluster forward`, in the machine's own network.
// It is a copy, so that the cluster belongs to no checkout.
func (c *Cluster) startForwarder() error {
	self := c.path("run", "cluster")
	if _, err := os.Stat(self); err != nil || !c.processes().Alive("forward") {
		data, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return err
		}
		if err := os.WriteFile(self, data, 0o755); err != nil {
			return err
		}
	}
	port, err := c.forwardedPort()
	if err != nil {
		return err
	}
	address := "127.0.0.1:" + port
	forwarder := proc.Process{Name: "forward", Args: []string{self, "forward", string(c.network()), address, "127.0.0.1:" + apiPort}}
	if _, err := c.processes().Ensure(forwarder); err != nil {
		return err
	}
	return c.processes().Wait("forward", 10*time.Second, func() error {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
		}
		return err
	})
}
