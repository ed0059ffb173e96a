package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// changedSettings are the kernel settings that the kubelet changes for the whole machine, and one that we do.
// What they were is written down before, and put back when the last cluster goes.
var changedSettings = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/overcommit_memory", "vm/panic_on_oom",
	"fs/inotify/max_user_instances",
}

const (
	// Each container and each watched file takes one, and the usual 128 are soon gone.
	watchers      = "fs/inotify/max_user_instances"
	watchersCount = "8192"
)

var savedSettings = filepath.Join(clusterRoot, ".settings.json")

func prepareSettings() error {
	if _, err := os.Stat(savedSettings); err != nil {
		values := map[string]string{}
		for _, name := range changedSettings {
			data, err := os.ReadFile("/proc/sys/" + name)
			if err != nil {
				return err
			}
			values[name] = strings.TrimSpace(string(data))
		}
		data, err := json.MarshalIndent(values, "", "  ")
		if err != nil {
			return err
		}
		if err := writeWhole(savedSettings, data); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/"+watchers, []byte(watchersCount), 0o644)
}

func restoreSettings() error {
	data, err := os.ReadFile(savedSettings)
	if os.IsNotExist(err) {
		return nil
	}
	values := map[string]string{}
	if err == nil {
		err = json.Unmarshal(data, &values)
	}
	if err != nil {
		return err
	}
	for name, value := range values {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return os.Remove(savedSettings)
}
