package main

import (
	"os"
	"path/filepath"

	"synapse-keeper.dev/cluster/cluster/netns"
	"synapse-keeper.dev/cluster/cluster/proc"
)

// Every cluster has a network of its own, so that all can use the same addresses.
const (
	nodeName     = "node1"
	nodeBridge   = "node0"
	nodeAddress  = "10.99.0.1"
	podRange     = "10.244.0.0/16"
	serviceRange = "10.96.0.0/16"
	apiService   = "10.96.0.1" // the first of serviceRange
	apiPort      = "6443"
	clusterRoot  = "/var/lib/synapse-keeper"
)

// Cluster says where a cluster's things are. All of it goes when it is taken down,
// except the image store, which is as good the next time.
type Cluster struct {
	Name     string
	Dir      string
	Cache    string
	Programs string // a folder of executables, known once they are built
}

func newCluster(name, cache string) *Cluster {
	return &Cluster{Name: name, Cache: cache, Dir: filepath.Join(clusterRoot, name)}
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

func (c *Cluster) program(name string) string { return filepath.Join(c.Programs, name) }
func (c *Cluster) cert(name string) string    { return c.path("pki", name+".crt") }
func (c *Cluster) key(name string) string     { return c.path("pki", name+".key") }
func (c *Cluster) config(name string) string  { return c.path("config", name) }

// kubeconfig is how a component reaches the API server from inside the cluster's network.
func (c *Cluster) kubeconfig(user string) string { return c.path("config", user+".kubeconfig") }

// adminKubeconfig works from the machine's own network.
func (c *Cluster) adminKubeconfig() string { return c.path("kubeconfig") }

func (c *Cluster) containerdSocket() string { return c.path("run", "containerd.sock") }
func (c *Cluster) imageStore() string       { return filepath.Join(c.Cache, "containerd", c.Name) }
func (c *Cluster) auditLog() string         { return c.path("log", "audit.log") }

// cgroup is the parent of all Pods' control groups.
func (c *Cluster) cgroup() string { return "/cluster-" + c.Name }

func (c *Cluster) network() netns.Namespace { return netns.Namespace("cluster-" + c.Name) }

func (c *Cluster) processes() proc.Folder {
	return proc.Folder{Records: c.path("run"), Logs: c.path("log")}
}

func (c *Cluster) makeFolders() error {
	for _, dir := range []string{"pki", "config", "cni", "log", "run", "etcd", "kubelet", "pods", "volumes"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	return os.MkdirAll(c.imageStore(), 0o711)
}
