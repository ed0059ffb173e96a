package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"synapse-keeper.dev/cluster/cluster/oci"
)

// startRuntime starts containerd and gives it the one image that no Pod runs without.
func (a *app) startRuntime(note noteFunc) error {
	if err := a.cluster.start(a.cluster.containerd()); err != nil {
		return err
	}
	return a.loadNamed(note, "pause")
}

func (a *app) loadImages(note noteFunc) error { return a.loadNamed(note, images...) }

func (a *app) loadNamed(note noteFunc, names ...string) error {
	builder := a.imageBuilder()
	for n, name := range names {
		note("%s (%d of %d)", name, n+1, len(names))
		image, err := builder.image(name)
		if err != nil {
			return err
		}
		if err := a.cluster.load(image); err != nil {
			return err
		}
	}
	note("%s", strings.Join(names, " "))
	return nil
}

// loadOurs puts the images of the operator's binary into the cluster.
func (a *app) loadOurs(note noteFunc) error {
	binary := a.binary()
	if _, err := os.Stat(binary); err != nil {
		note("none yet: there is no %s", binary)
		return nil
	}
	ours, err := a.imageBuilder().ours(binary)
	if err != nil {
		return err
	}
	for _, image := range ours {
		if err := a.cluster.load(image); err != nil {
			return err
		}
	}
	note("from %s", binary)
	return a.cluster.forgetOldImages()
}

func (a *app) load() error {
	if !a.cluster.processes().Alive("containerd") {
		return errors.New("the cluster is not up")
	}
	if _, err := os.Stat(a.binary()); err != nil {
		return fmt.Errorf("the operator is not built: %w", err)
	}
	p := newProgress(os.Stdout, 3)
	if err := p.Step("programs from Go modules", a.buildPrograms); err != nil {
		return err
	}
	// One that is new is wanted by the tests that came with it.
	if err := p.Step("images", a.loadImages); err != nil {
		return err
	}
	return p.Step("our images", a.loadOurs)
}

// load puts an image into the cluster, unless it has this very one. Layers that it has are not sent again.
func (c *Cluster) load(image oci.Image) error {
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	list, err := c.ctr("images", "list", "name=="+image.Name).Output()
	if err != nil {
		return commandError("ctr images list", err)
	}
	if strings.Contains(string(list), digest) {
		return nil
	}
	content, err := c.ctr("content", "list", "--quiet").Output()
	if err != nil {
		return commandError("ctr content list", err)
	}
	has := map[string]bool{}
	for _, digest := range strings.Fields(string(content)) {
		has[digest] = true
	}
	importer := c.ctr("images", "import", "-")
	var output strings.Builder
	importer.Stdout, importer.Stderr = &output, &output
	in, err := importer.StdinPipe()
	if err != nil {
		return err
	}
	if err := importer.Start(); err != nil {
		return err
	}
	writeErr := image.Write(in, func(digest string) bool { return has[digest] })
	in.Close()
	if err := errors.Join(importer.Wait(), writeErr); err != nil {
		return fmt.Errorf("putting %s in: %w\n%s", image.Name, err, output.String())
	}
	return nil
}

// forgetOldImages removes the images that lost their name to a newer one; their layers go with them.
// The kubelet would do so on a full disk, which it never sees here. What runs from them goes on running.
func (c *Cluster) forgetOldImages() error {
	list, err := c.ctr("images", "list").Output()
	if err != nil {
		return commandError("ctr images list", err)
	}
	named := map[string]bool{}
	unnamed := map[string]string{}
	for _, line := range strings.Split(string(list), "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		if name, digest := fields[0], fields[2]; strings.HasPrefix(name, "sha256:") {
			unnamed[name] = digest
		} else {
			named[digest] = true
		}
	}
	for name, digest := range unnamed {
		if !named[digest] {
			if out, err := c.ctr("images", "remove", name).CombinedOutput(); err != nil {
				return fmt.Errorf("ctr images remove: %w\n%s", err, out)
			}
		}
	}
	return nil
}
