// Package oci writes layers and images in the Open Container Initiative's formats.
package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Epoch is the newest time that a file in a layer can have: what is built again is the same again.
var Epoch = time.Unix(1735689600, 0) // 2025

// Layer is a tar file of a part of an image's file system. It is not compressed: it never leaves the machine.
type Layer struct {
	Path   string
	Digest string
	Size   int64
}

// File is one file of a layer that is made from single files.
type File struct {
	Path   string // in the image, absolute
	Source string // where its content is, or
	Data   string // the content itself
	Mode   int64
}

// WriteTree makes a layer of all that is below a folder. Where the folder is the upper one of an overlay mount,
// its marks for what was deleted are written as a layer's marks for the same.
func WriteTree(path, root string) (Layer, error) {
	return write(path, func(out *tar.Writer) error {
		links := map[uint64]string{}
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			return writeNode(out, path, name, links)
		})
	})
}

// WriteFiles makes a layer of single files. Their folders belong to root.
func WriteFiles(path string, files []File) (Layer, error) {
	return write(path, func(out *tar.Writer) error {
		made := map[string]bool{".": true}
		for _, f := range files {
			name := strings.TrimPrefix(f.Path, "/")
			if err := writeParents(out, filepath.Dir(name), made); err != nil {
				return err
			}
			content, size, err := f.open()
			if err != nil {
				return err
			}
			err = writeFile(out, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.Mode, Size: size, ModTime: Epoch}, content)
			content.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (f File) open() (io.ReadCloser, int64, error) {
	if f.Source == "" {
		return io.NopCloser(bytes.NewReader([]byte(f.Data))), int64(len(f.Data)), nil
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func writeParents(out *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := writeParents(out, filepath.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: Epoch})
}

// The marks for something that lower layers have and this one has not.
const (
	deleted = ".wh."
	opaque  = ".wh..wh..opq" // in a folder: all that lower layers have in it
)

// writeNode writes one file of a tree. links remembers under which name a file with several names was written.
func writeNode(out *tar.Writer, path, name string, links map[uint64]string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	if info.Mode()&fs.ModeCharDevice != 0 && stat.Rdev == 0 {
		name = filepath.Join(filepath.Dir(name), deleted+filepath.Base(name))
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: Epoch})
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return nil // a container gets its own
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name = name
	header.Uname, header.Gname = "", ""
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	// Nobody in our containers becomes someone else by running a file.
	header.Mode = int64(info.Mode().Perm())
	if info.Mode()&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	if header.ModTime.After(Epoch) {
		header.ModTime = Epoch
	}
	switch {
	case info.IsDir():
		header.Name += "/"
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if isOpaque(path) {
			return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: header.Name + opaque, ModTime: Epoch})
		}
		return nil
	case !info.Mode().IsRegular():
		return out.WriteHeader(header)
	case stat.Nlink > 1 && links[stat.Ino] != "":
		header.Typeflag, header.Linkname, header.Size = tar.TypeLink, links[stat.Ino], 0
		return out.WriteHeader(header)
	}
	links[stat.Ino] = name
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return writeFile(out, header, file)
}

func writeFile(out *tar.Writer, header *tar.Header, content io.Reader) error {
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}

func isOpaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

// write makes the tar file and takes its digest on the way.
func write(path string, fill func(*tar.Writer) error) (Layer, error) {
	file, err := os.Create(path)
	if err != nil {
		return Layer{}, err
	}
	defer file.Close()
	digest := sha256.New()
	out := tar.NewWriter(io.MultiWriter(file, digest))
	if err := fill(out); err != nil {
		return Layer{}, err
	}
	if err := out.Close(); err != nil {
		return Layer{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return Layer{}, err
	}
	return Layer{path, "sha256:" + hex.EncodeToString(digest.Sum(nil)), info.Size()}, file.Close()
}
