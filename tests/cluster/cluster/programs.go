package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mains are the packages that become programs; `tool` stands for the upstream ones that go.mod names.
var mains = []string{"./kube", "./coredns", "./provisioner", "./pause", "tool"}

// inKube are the names that the kube program goes by.
var inKube = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// Snapshotters that would need C libraries, and that nothing here uses.
const buildTags = "no_btrfs,no_zfs,no_devmapper,no_aufs"

type noteFunc = func(format string, args ...any)

// ensurePrograms builds the cluster's programs from the module, unless the cache has them, and returns their folder.
func ensurePrograms(module, cache string, note noteFunc) (string, error) {
	key, err := programsKey(module)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "programs", key)
	if _, err := os.Stat(dir); err == nil {
		note("cached")
		return dir, nil
	}
	parts := dir + ".part"
	if err := os.RemoveAll(parts); err != nil {
		return "", err
	}
	if err := os.MkdirAll(parts, 0o755); err != nil {
		return "", err
	}
	if err := build(module, parts, note); err != nil {
		return "", err
	}
	for _, name := range inKube {
		if err := os.Symlink("kube", filepath.Join(parts, name)); err != nil {
			return "", err
		}
	}
	return dir, os.Rename(parts, dir)
}

// programsKey names what the programs are made of.
func programsKey(module string) (string, error) {
	version, err := goCommand(module, "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go is needed: %w", err)
	}
	files := []string{"go.mod", "go.sum"}
	for _, main := range mains {
		sources, _ := filepath.Glob(filepath.Join(module, main, "*.go"))
		for _, source := range sources {
			relative, _ := filepath.Rel(module, source)
			files = append(files, relative)
		}
	}
	h := sha256.New()
	flags, err := linkerFlags(module)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s%s\n%s\n%s\n", version, buildTags, flags, strings.Join(inKube, " "))
	if err := hashFiles(h, module, files); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func hashFiles(h io.Writer, dir string, files []string) error {
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return nil
}

func build(module, into string, note noteFunc) error {
	note("downloading modules")
	packages, err := goCommand(module, append([]string{"list", "-deps", "-tags", buildTags}, mains...)...).Output()
	if err != nil {
		return commandError("go list", err)
	}
	total := strings.Count(string(packages), "\n")
	flags, err := linkerFlags(module)
	if err != nil {
		return err
	}
	args := append([]string{"build", "-v", "-trimpath", "-tags", buildTags, "-ldflags", flags, "-o", into + "/"}, mains...)
	cmd := goCommand(module, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// go prints each package's path as it begins to compile it; what it found in its own cache it does not mention.
	var errors []string
	built := 0
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if line := lines.Text(); strings.Contains(line, " ") {
			errors = append(errors, line)
		} else {
			built++
			note("%d of at most %d packages", built, total)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, strings.Join(errors, "\n"))
	}
	note("%d packages compiled", built)
	return nil
}

// linkerFlags tell the programs their versions: Kubernetes' own is not in its source, and Helm charts ask for it,
// `helm template` for the one that helm was made for.
func linkerFlags(module string) (string, error) {
	const containerd, helm, kubernetes = "github.com/containerd/containerd/v2", "helm.sh/helm/v3", "k8s.io/kubernetes"
	out, err := goCommand(module, "list", "-m", "-f", "{{.Version}}", containerd, helm, kubernetes).Output()
	if err != nil {
		return "", commandError("go list -m", err)
	}
	versions := strings.Fields(string(out))
	numbers := strings.Split(strings.TrimPrefix(versions[2], "v"), ".")
	flags := []string{"-s", "-w"}
	set := func(variable, value string) { flags = append(flags, "-X", variable+"="+value) }
	set(containerd+"/version.Version", versions[0])
	set(helm+"/internal/version.version", versions[1])
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		set(pkg+".gitVersion", versions[2])
		set(pkg+".gitTreeState", "clean")
	}
	for _, prefix := range []string{
		"k8s.io/component-base/version.git", "k8s.io/client-go/pkg/version.git",
		helm + "/pkg/chartutil.k8sVersion", helm + "/pkg/lint/rules.k8sVersion",
	} {
		set(prefix+"Major", numbers[0])
		set(prefix+"Minor", numbers[1])
	}
	return strings.Join(flags, " "), nil
}

func goCommand(module string, args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// commandError adds what a command wrote to what the operating system says of it.
func commandError(what string, err error) error {
	if exit, ok := err.(*exec.ExitError); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// debianPackages are what comes from Debian: the part that starts containers, and what fills their images.
var debianPackages = []string{"containernetworking-plugins", "conntrack", "iproute2", "iptables", "mmdebstrap", "runc"}

func ensureDebianPackages(note noteFunc) error {
	var missing []string
	for _, name := range debianPackages {
		out, _ := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status}", name).Output()
		if string(out) != "installed" {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		note("installed")
		return nil
	}
	note("installing %s", strings.Join(missing, " "))
	apt := func(args ...string) error {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := apt("update"); err != nil {
		return err
	}
	return apt(append([]string{"install", "--yes", "--no-install-recommends"}, missing...)...)
}
