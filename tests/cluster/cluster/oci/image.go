package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"strings"
)

// Config is how an image's containers run, in the specification's own words.
type Config struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
}

// Image is a name, layers from the lowest up, and how to run it.
type Image struct {
	Name   string
	Layers []Layer
	Config Config
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// documents are the image's configuration and manifest, and the manifest's descriptor.
func (i Image) documents() (config, manifest []byte, self descriptor, err error) {
	var layers []descriptor
	var diffs []string
	for _, l := range i.Layers {
		layers = append(layers, descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: l.Digest, Size: l.Size})
		diffs = append(diffs, l.Digest) // not compressed: both digests are the same
	}
	config, err = json.Marshal(map[string]any{
		"created": Epoch.UTC(), "architecture": runtime.GOARCH, "os": "linux",
		"config": i.Config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return
	}
	manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: digestOf(config), Size: int64(len(config))},
		"layers": layers,
	})
	self = descriptor{
		MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digestOf(manifest), Size: int64(len(manifest)),
		Annotations: map[string]string{"io.containerd.image.name": i.Name},
	}
	return
}

// Digest names the image by its content.
func (i Image) Digest() (string, error) {
	_, _, self, err := i.documents()
	return self.Digest, err
}

// Write writes the image as a tar file in the image layout. The layers that the reader has are left out.
func (i Image) Write(w io.Writer, has func(digest string) bool) error {
	config, manifest, self, err := i.documents()
	if err != nil {
		return err
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{self}})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	add := func(name string, size int64, content io.Reader) error {
		return writeFile(out, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: Epoch}, content)
	}
	addData := func(name string, data []byte) error { return add(name, int64(len(data)), bytes.NewReader(data)) }
	if err := addData("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, l := range i.Layers {
		if has(l.Digest) {
			continue
		}
		file, err := os.Open(l.Path)
		if err != nil {
			return err
		}
		err = add(blob(l.Digest), l.Size, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	for _, document := range [][]byte{config, manifest} {
		if err := addData(blob(digestOf(document)), document); err != nil {
			return err
		}
	}
	if err := addData("index.json", index); err != nil {
		return err
	}
	return out.Close()
}

func blob(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
