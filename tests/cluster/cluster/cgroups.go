package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Control groups of the first kind: a tree for each controller.
const cgroupTrees = "/sys/fs/cgroup/*"

func makeCgroups(name string) error {
	trees, err := filepath.Glob(cgroupTrees)
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := os.MkdirAll(tree+name, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// cgroupDirs are the groups of this name and those inside them, children first.
func cgroupDirs(name string) (dirs []string) {
	trees, _ := filepath.Glob(cgroupTrees + name)
	for _, tree := range trees {
		filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// killCgroups ends every process in them.
func killCgroups(name string) error {
	for _, dir := range cgroupDirs(name) {
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, line := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// removeCgroups waits a moment for those whose last process is just ending.
func removeCgroups(name string) error {
	for _, dir := range cgroupDirs(name) {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			err := syscall.Rmdir(dir)
			if err == nil || errors.Is(err, syscall.ENOENT) {
				break
			}
			if time.Now().After(end) {
				return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
			}
		}
	}
	return nil
}
