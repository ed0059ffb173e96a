package main

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"synapse-keeper.dev/cluster/cluster/oci"
)

// Our own images are made from the operator's binary: a layer with nothing else, on top of what it needs to run.
const binaryPath = "/usr/local/bin/synapse-keeper"

// ours makes the operator's and the tools' image.
func (b imageBuilder) ours(binary string) ([]oci.Image, error) {
	base, err := b.layers("base")
	if err != nil {
		return nil, err
	}
	top, err := b.binaryLayer(binary)
	if err != nil {
		return nil, err
	}
	support, err := b.supportLayer(binary, base[0].root)
	if err != nil {
		return nil, err
	}
	operator, err := b.recipe("operator")
	if err != nil {
		return nil, err
	}
	tools, err := b.image("tools")
	if err != nil {
		return nil, err
	}
	tools.Layers = append(tools.Layers, top)
	return []oci.Image{
		{Name: operator.Name, Config: operator.Config, Layers: []oci.Layer{support, top}},
		tools,
	}, nil
}

// binaryLayer holds the binary, without what only a debugger reads where that can be taken off.
func (b imageBuilder) binaryLayer(binary string) (oci.Layer, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return oci.Layer{}, err
	}
	key := "binary-" + hashOf(data)
	layer, err := b.cached(key, func(dir string) (oci.Layer, error) {
		stripped := filepath.Join(dir, "stripped")
		if err := exec.Command("strip", "--strip-debug", "-o", stripped, binary).Run(); err != nil {
			stripped = binary
		}
		return oci.WriteFiles(filepath.Join(dir, "layer.tar"), []oci.File{{Path: binaryPath, Source: stripped, Mode: 0o755}})
	})
	if err != nil {
		return layer, err
	}
	// There are many builds in a day, and each is large.
	old, _ := filepath.Glob(filepath.Join(b.cache, "binary-*"))
	for _, dir := range old {
		if filepath.Base(dir) != key {
			os.RemoveAll(dir)
		}
	}
	return layer, nil
}

// supportLayer holds all that a dynamically linked binary needs, taken from the files of the base.
func (b imageBuilder) supportLayer(binary, base string) (oci.Layer, error) {
	files, err := sharedLibraries(binary, base)
	if err != nil {
		return oci.Layer{}, err
	}
	const authorities = "/etc/ssl/certs/ca-certificates.crt"
	files = append(files,
		oci.File{Path: authorities, Source: base + authorities, Mode: 0o644},
		oci.File{Path: "/etc/passwd", Data: "keeper:x:65532:65532::/:/sbin/nologin\n", Mode: 0o644},
		oci.File{Path: "/etc/group", Data: "keeper:x:65532:\n", Mode: 0o644})
	return b.cached("support-"+hashOf(fmt.Append(nil, files)), func(dir string) (oci.Layer, error) {
		return oci.WriteFiles(filepath.Join(dir, "layer.tar"), files)
	})
}

// sharedLibraries finds the libraries of a binary, theirs in turn, and the program that loads them.
func sharedLibraries(binary, base string) (files []oci.File, err error) {
	seen := map[string]bool{}
	var add func(path string) error
	add = func(path string) error {
		file, err := elf.Open(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer file.Close()
		if loader := file.Section(".interp"); loader != nil {
			name, err := loader.Data()
			if err != nil {
				return err
			}
			path := string(name[:len(name)-1]) // it ends with a zero byte
			files = append(files, oci.File{Path: path, Source: base + path, Mode: 0o755})
			seen[filepath.Base(path)] = true
		}
		names, err := file.ImportedLibraries()
		if err != nil {
			return err
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			found, _ := filepath.Glob(filepath.Join(base, "usr/lib/*-linux-gnu", name))
			if len(found) == 0 {
				return fmt.Errorf("%s needs %s, which the base image has not", path, name)
			}
			files = append(files, oci.File{Path: found[0][len(base):], Source: found[0], Mode: 0o644})
			if err := add(found[0]); err != nil {
				return err
			}
		}
		return nil
	}
	return files, add(binary)
}

// binary is the operator's program: $BINARY, or what cargo built with profile $PROFILE.
func (a *app) binary() string {
	if binary := os.Getenv("BINARY"); binary != "" {
		return binary
	}
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = filepath.Join(a.module, "../../target")
	}
	profile := os.Getenv("PROFILE")
	if profile == "" || profile == "dev" {
		profile = "debug" // the one folder that cargo does not name after the profile
	}
	return filepath.Join(target, profile, "synapse-keeper")
}
