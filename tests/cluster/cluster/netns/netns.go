// Package netns makes network namespaces and runs functions, dials and listeners inside them.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespace is the name of a network namespace, as `ip netns` knows it.
type Namespace string

func (n Namespace) path() string { return "/run/netns/" + string(n) }

// Exists tells whether the namespace is there.
func (n Namespace) Exists() bool {
	_, err := os.Stat(n.path())
	return err == nil
}

// Create makes the namespace with a bridge as its only network interface, the way that a machine has a network card.
// The default route makes programs find an address of their own; packets that take it go nowhere.
func (n Namespace) Create(bridge, address string) error {
	name := string(n)
	for _, args := range [][]string{
		{"netns", "add", name},
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "link", "add", bridge, "type", "bridge"},
		{"-n", name, "address", "add", address, "dev", bridge},
		{"-n", name, "link", "set", bridge, "up"},
		{"-n", name, "route", "add", "default", "dev", bridge},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %s", strings.Join(args, " "), strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// Delete removes the namespace; with its last process gone, its interfaces go as well.
func (n Namespace) Delete() error {
	if out, err := exec.Command("ip", "netns", "delete", string(n)).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns delete %s: %s", n, strings.TrimSpace(string(out)))
	}
	return nil
}

// Do runs f inside the namespace: sockets that f opens and processes that it starts belong there.
// Only the network is another one; `ip netns exec` would change the mounts as well.
func (n Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		// The thread is not given back: it ends with this goroutine, and nothing else ever runs on it.
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(n.path())
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering network namespace %s: %w", n, err)
			}
			return f()
		}()
	}()
	return <-done
}

// DialContext connects to an address inside the namespace. The address must be numeric:
// Go looks names up, and tries several addresses, on threads of its own.
func (n Namespace) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	doErr := n.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, doErr
}
