// Cluster runs a real Kubernetes on one machine, without a container engine and without an image registry.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"synapse-keeper.dev/cluster/cluster/netns"
)

const usage = `usage: cluster [-name NAME] COMMAND
  up        bring the cluster up; what is up already stays as it is
  down      remove it and all its traces
  load      put our images, made from the operator's binary, into it
  programs  build its programs, unless they are cached, and print their folder
`

// app is one run of this program.
type app struct {
	cluster *Cluster
	module  string // the folder of go.mod, below which all sources are
}

func main() {
	name := flag.String("name", "synapse-keeper", "the cluster's name")
	module := flag.String("module", ".", "folder of the cluster's sources")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	if err := run(*name, *module, flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

func run(name, module string, args []string) error {
	cache := os.Getenv("SYNAPSE_KEEPER_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(dir, "synapse-keeper")
	}
	module, err := filepath.Abs(module)
	if err != nil {
		return err
	}
	a := &app{newCluster(name, cache), module}
	if len(args) == 4 && args[0] == "forward" {
		return forward(netns.Namespace(args[1]), args[2], args[3])
	}
	if len(args) != 1 {
		flag.Usage()
		os.Exit(2)
	}
	commands := map[string]func() error{"up": a.up, "down": a.down, "load": a.load, "programs": a.programs}
	command, ok := commands[args[0]]
	if !ok {
		flag.Usage()
		os.Exit(2)
	}
	unlock, err := lock(cache)
	if err != nil {
		return err
	}
	defer unlock()
	return command()
}

// lock makes runs of this program wait for each other: tests start several at once.
func lock(cache string) (unlock func() error, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		return file.Close, nil
	}
	fmt.Fprintln(os.Stderr, "waiting for another run of this program")
	return file.Close, syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
}

func (a *app) buildPrograms(note noteFunc) (err error) {
	a.cluster.Programs, err = ensurePrograms(a.module, a.cluster.Cache, note)
	return err
}

func (a *app) programs() error {
	if err := newProgress(os.Stderr, 1).Step("programs from Go modules", a.buildPrograms); err != nil {
		return err
	}
	fmt.Println(a.cluster.Programs)
	return nil
}

func forward(namespace netns.Namespace, from, to string) error {
	l, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	return namespace.Forward(l, to)
}
