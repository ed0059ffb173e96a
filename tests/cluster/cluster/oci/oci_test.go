package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type entry struct {
	header *tar.Header
	data   string
}

func entries(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	for in := tar.NewReader(r); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		must(t, err)
		data, err := io.ReadAll(in)
		must(t, err)
		found[header.Name] = entry{header, string(data)}
	}
}

func layerEntries(t *testing.T, l Layer) map[string]entry {
	t.Helper()
	data, err := os.ReadFile(l.Path)
	must(t, err)
	if l.Size != int64(len(data)) || l.Digest != digestOf(data) {
		t.Errorf("%+v does not describe its file", l)
	}
	return entries(t, bytes.NewReader(data))
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	old := time.Unix(1000000000, 0)
	must(t,
		os.Mkdir(at("bin"), 0o755),
		os.WriteFile(at("bin/su"), []byte("program"), 0o755),
		os.Chmod(at("bin/su"), 0o755|os.ModeSetuid),
		os.Link(at("bin/su"), at("bin/other")),
		os.Symlink("su", at("bin/link")),
		os.Mkdir(at("tmp"), 0o777),
		os.Chmod(at("tmp"), 0o777|os.ModeSticky),
		os.WriteFile(at("old"), nil, 0o600),
		os.Chtimes(at("old"), old, old),
		unix.Mkfifo(at("fifo"), 0o600),
	)
	l, err := WriteTree(filepath.Join(t.TempDir(), "layer.tar"), root)
	must(t, err)
	got := layerEntries(t, l)
	if len(got) != 6 {
		t.Errorf("entries: %v", got)
	}
	first, second := got["bin/other"], got["bin/su"]
	if first.data != "program" || first.header.Mode != 0o755 {
		t.Errorf("want the content once and no set-user-id bit, got %+v", first)
	}
	if second.header.Typeflag != tar.TypeLink || second.header.Linkname != "bin/other" {
		t.Errorf("want a second name for the same file, got %+v", second.header)
	}
	if got["bin/link"].header.Linkname != "su" {
		t.Errorf("symbolic link: %+v", got["bin/link"].header)
	}
	if got["tmp/"].header.Mode != 0o1777 {
		t.Errorf("mode of /tmp: %o", got["tmp/"].header.Mode)
	}
	if !got["old"].header.ModTime.Equal(old) || !first.header.ModTime.Equal(Epoch) {
		t.Error("want old times kept and new ones made the same")
	}
}

// Overlay's marks for deleted things, made by hand: only root may.
func TestDeleted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	root := t.TempDir()
	must(t,
		unix.Mknod(filepath.Join(root, "gone"), unix.S_IFCHR, 0),
		os.Mkdir(filepath.Join(root, "anew"), 0o755),
	)
	if err := unix.Setxattr(filepath.Join(root, "anew"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skip("no such attributes here:", err)
	}
	l, err := WriteTree(filepath.Join(t.TempDir(), "layer.tar"), root)
	must(t, err)
	got := layerEntries(t, l)
	for _, name := range []string{".wh.gone", "anew/", "anew/.wh..wh..opq"} {
		if got[name].header == nil {
			t.Errorf("%s is missing in %v", name, got)
		}
	}
}

func TestFiles(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	must(t, os.WriteFile(source, []byte("binary"), 0o644))
	files := []File{{Path: "/usr/bin/a", Source: source, Mode: 0o755}, {Path: "/usr/bin/b", Data: "text", Mode: 0o644}}
	l, err := WriteFiles(filepath.Join(t.TempDir(), "layer.tar"), files)
	must(t, err)
	got := layerEntries(t, l)
	if len(got) != 4 || got["usr/"].header == nil || got["usr/bin/"].header == nil {
		t.Errorf("want two folders and two files, got %v", got)
	}
	if a := got["usr/bin/a"]; a.data != "binary" || a.header.Mode != 0o755 {
		t.Errorf("a: %+v", a)
	}
	again, err := WriteFiles(filepath.Join(t.TempDir(), "again.tar"), files)
	if err != nil || again.Digest != l.Digest {
		t.Error("the same files are another layer")
	}
}

func TestImage(t *testing.T) {
	dir := t.TempDir()
	var layers []Layer
	for _, name := range []string{"lower", "upper"} {
		l, err := WriteFiles(filepath.Join(dir, name), []File{{Path: name, Data: name, Mode: 0o644}})
		must(t, err)
		layers = append(layers, l)
	}
	image := Image{Name: "localhost/test:1", Layers: layers, Config: Config{User: "1:1"}}
	var out bytes.Buffer
	must(t, image.Write(&out, func(digest string) bool { return digest == layers[0].Digest }))
	got := entries(t, &out)

	var index struct{ Manifests []descriptor }
	must(t, json.Unmarshal([]byte(got["index.json"].data), &index))
	self := index.Manifests[0]
	if digest, err := image.Digest(); err != nil || self.Digest != digest || self.Annotations["io.containerd.image.name"] != image.Name {
		t.Errorf("index: %+v, %v", self, err)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	must(t, json.Unmarshal([]byte(got[blob(self.Digest)].data), &manifest))
	if len(manifest.Layers) != 2 || manifest.Layers[1].Digest != layers[1].Digest {
		t.Errorf("layers: %+v", manifest.Layers)
	}
	var config struct {
		Config Config
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	must(t, json.Unmarshal([]byte(got[blob(manifest.Config.Digest)].data), &config))
	if config.Config.User != "1:1" || !slices.Equal(config.Rootfs.DiffIDs, []string{layers[0].Digest, layers[1].Digest}) {
		t.Errorf("config: %+v", config)
	}
	if got[blob(layers[0].Digest)].header != nil {
		t.Error("a layer that the reader has was written")
	}
	for name, e := range got {
		if hash, isBlob := strings.CutPrefix(name, "blobs/sha256/"); isBlob && digestOf([]byte(e.data)) != "sha256:"+hash {
			t.Errorf("%s is not what its name says", name)
		}
	}
}
