package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"synapse-keeper.dev/cluster/cluster/oci"
)

// images in the order in which they are put into the cluster. `base` is no image, only a layer.
var images = []string{"pause", "postgres", "postgres-18", "redis", "synapse", "s3"}

// recipe is a folder below tests/cluster/images: image.json, and what its own script `build` needs. A script `prepare` makes things
// for it on the machine.
type recipe struct {
	dir     string
	Name    string     // of the image
	From    string     // the recipe whose layers lie below
	Program string     // instead of a script: one of the cluster's programs, and nothing else
	Storage string     // one of the programs of tests/storage, on top of what lies below if anything does
	Config  oci.Config // how containers run
	// Files of the folder that become a layer of their own, on top, and where. A change to them is quick.
	Files map[string]string
}

// imageBuilder makes images from recipes. It keeps their layers in the cache, each under a name made of its inputs.
type imageBuilder struct {
	recipes  string
	cache    string
	programs string
}

func (a *app) imageBuilder() imageBuilder {
	return imageBuilder{filepath.Join(a.module, "images"), filepath.Join(a.cluster.Cache, "layers"), a.cluster.Programs}
}

func (b imageBuilder) recipe(name string) (r recipe, err error) {
	r.dir = filepath.Join(b.recipes, name)
	data, err := os.ReadFile(filepath.Join(r.dir, "image.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// image makes what a recipe says, without the operator's binary.
func (b imageBuilder) image(name string) (oci.Image, error) {
	r, err := b.recipe(name)
	if err != nil {
		return oci.Image{}, err
	}
	image := oci.Image{Name: r.Name, Config: r.Config}
	if r.Program != "" {
		layer, err := b.programLayer(r.Program)
		image.Layers = []oci.Layer{layer}
		return image, err
	}
	if r.From != "" {
		var built []builtLayer
		built, err = b.layers(name)
		for _, l := range built {
			image.Layers = append(image.Layers, l.Layer)
		}
	}
	if err == nil && r.Storage != "" {
		var layer oci.Layer
		layer, err = b.storageLayer(r.Storage)
		image.Layers = append(image.Layers, layer)
	}
	if err == nil && len(r.Files) > 0 {
		var layer oci.Layer
		layer, err = b.fileLayer(r)
		image.Layers = append(image.Layers, layer)
	}
	return image, err
}

func (b imageBuilder) fileLayer(r recipe) (oci.Layer, error) {
	h := sha256.New()
	var files []oci.File
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		fmt.Fprintln(h, r.Files[name])
		if err := hashFiles(h, r.dir, []string{name}); err != nil {
			return oci.Layer{}, err
		}
		files = append(files, oci.File{Path: r.Files[name], Source: filepath.Join(r.dir, name), Mode: 0o755})
	}
	return b.cached(hex.EncodeToString(h.Sum(nil))[:16], func(dir string) (oci.Layer, error) {
		return oci.WriteFiles(filepath.Join(dir, "layer.tar"), files)
	})
}

func (b imageBuilder) programLayer(name string) (oci.Layer, error) {
	program := filepath.Join(b.programs, name)
	data, err := os.ReadFile(program)
	if err != nil {
		return oci.Layer{}, err
	}
	return b.cached(hashOf(data), func(dir string) (oci.Layer, error) {
		return oci.WriteFiles(filepath.Join(dir, "layer.tar"), []oci.File{{Path: "/" + name, Source: program, Mode: 0o755}})
	})
}

// storageLayer holds a program that tests/storage builds.
func (b imageBuilder) storageLayer(program string) (oci.Layer, error) {
	build := exec.Command(filepath.Join(b.recipes, "../../storage/bin-dir"))
	build.Stderr = os.Stderr
	said, err := build.Output()
	if err != nil {
		return oci.Layer{}, fmt.Errorf("tests/storage/bin-dir: %w", err)
	}
	dir := strings.TrimSpace(string(said))
	return b.cached(program+"-"+filepath.Base(dir), func(layer string) (oci.Layer, error) {
		return oci.WriteFiles(filepath.Join(layer, "layer.tar"),
			[]oci.File{{Path: "/usr/local/bin/" + program, Source: filepath.Join(dir, program), Mode: 0o755}})
	})
}

// builtLayer is a layer together with its files, on which others can be built.
type builtLayer struct {
	oci.Layer
	key, root string
}

// layers makes the layers of a recipe, from the lowest up.
func (b imageBuilder) layers(name string) ([]builtLayer, error) {
	r, err := b.recipe(name)
	if err != nil {
		return nil, err
	}
	var below []builtLayer
	if r.From != "" {
		if below, err = b.layers(r.From); err != nil {
			return nil, err
		}
	}
	key, err := b.key(r, below)
	if err != nil {
		return nil, err
	}
	layer, err := b.cached(key, func(dir string) (oci.Layer, error) {
		root := filepath.Join(dir, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return oci.Layer{}, err
		}
		if err := b.runScript(r, below, root, filepath.Join(dir, "log")); err != nil {
			return oci.Layer{}, fmt.Errorf("image %s: %w", name, err)
		}
		return oci.WriteTree(filepath.Join(dir, "layer.tar"), root)
	})
	return append(below, builtLayer{layer, key, filepath.Join(b.cache, key, "root")}), err
}

// key names a layer by its recipe's script and files (not by how its containers run) and the layers below.
func (b imageBuilder) key(r recipe, below []builtLayer) (string, error) {
	h := sha256.New()
	for _, l := range below {
		fmt.Fprintln(h, l.key)
	}
	var files []string
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "image.json" && r.Files[d.Name()] == "" {
			relative, _ := filepath.Rel(r.dir, path)
			files = append(files, relative)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if err := hashFiles(h, r.dir, files); err != nil {
		return "", err
	}
	if err := hashFiles(h, b.recipes, []string{"build-layer"}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// runScript lets the recipe's script fill root: on the machine itself, or as root of the layers below.
func (b imageBuilder) runScript(r recipe, below []builtLayer, root, log string) error {
	script := filepath.Join(r.dir, "build")
	if len(below) > 0 {
		script = filepath.Join(b.recipes, "build-layer")
	}
	var lower []string
	for _, l := range slices.Backward(below) { // overlay wants the topmost first
		lower = append(lower, l.root)
	}
	output, err := os.Create(log)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(script)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Env = append(os.Environ(),
		"ROOT="+root, "LOWER="+strings.Join(lower, ":"), "RECIPE="+r.dir,
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", oci.Epoch.Unix()))
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log)
		return fmt.Errorf("%w\n%s", err, lastLines(string(text), 15))
	}
	return nil
}

// cached returns the layer of this key; make fills a folder with it where the cache has none.
func (b imageBuilder) cached(key string, make func(dir string) (oci.Layer, error)) (layer oci.Layer, err error) {
	dir := filepath.Join(b.cache, key)
	if data, err := os.ReadFile(filepath.Join(dir, "layer.json")); err == nil {
		return layer, json.Unmarshal(data, &layer)
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return layer, err
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return layer, err
	}
	if layer, err = make(part); err != nil {
		return layer, err
	}
	layer.Path = filepath.Join(dir, filepath.Base(layer.Path))
	data, err := json.Marshal(layer)
	if err != nil {
		return layer, err
	}
	if err := os.WriteFile(filepath.Join(part, "layer.json"), data, 0o644); err != nil {
		return layer, err
	}
	return layer, os.Rename(part, dir)
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:16]
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
