package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"time"

	"synapse-keeper.dev/cluster/cluster/proc"
)

// component is one of the processes that make the cluster, and how it says that it works.
type component struct {
	proc.Process
	ready func() error
}

// start runs components in the cluster's network and waits until each is ready.
func (c *Cluster) start(components ...component) error {
	for _, x := range components {
		if err := c.network().Do(func() error {
			_, err := c.processes().Ensure(x.Process)
			return err
		}); err != nil {
			return fmt.Errorf("starting %s: %w", x.Name, err)
		}
	}
	for _, x := range components {
		if err := c.processes().Wait(x.Name, 90*time.Second, x.ready); err != nil {
			return err
		}
	}
	return nil
}

// kubernetes describes one of Kubernetes' own components: name, flags, and where it tells about its health.
func (c *Cluster) kubernetes(name, health string, flags ...string) component {
	return component{
		proc.Process{Name: name, Args: append([]string{c.program(name)}, flags...)},
		func() error { return c.get(health) },
	}
}

func (c *Cluster) etcd() component {
	return c.kubernetes("etcd", "http://127.0.0.1:2379/health",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--unsafe-no-fsync", // it need not outlive the machine
		"--log-level=warn")
}

func (c *Cluster) apiserver() component {
	return c.kubernetes("kube-apiserver", "https://127.0.0.1:"+apiPort+"/readyz",
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port="+apiPort, "--advertise-address="+nodeAddress,
		"--tls-cert-file="+c.cert("apiserver"), "--tls-private-key-file="+c.key("apiserver"),
		"--client-ca-file="+c.cert("ca"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range="+serviceRange,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+c.path("pki", "accounts.pub"),
		"--service-account-signing-key-file="+c.path("pki", "accounts.key"),
		"--kubelet-certificate-authority="+c.cert("ca"),
		"--kubelet-client-certificate="+c.cert("apiserver"), "--kubelet-client-key="+c.key("apiserver"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+c.cert("front-proxy-ca"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.cert("front-proxy"), "--proxy-client-key-file="+c.key("front-proxy"),
		"--audit-policy-file="+c.config("audit.yaml"), "--audit-log-path="+c.auditLog())
}

func (c *Cluster) controllerManager() component {
	config := c.kubeconfig("controller-manager")
	return c.kubernetes("kube-controller-manager", "https://127.0.0.1:10257/healthz",
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--bind-address=127.0.0.1", "--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+c.path("pki", "accounts.key"),
		"--root-ca-file="+c.cert("ca"),
		"--cluster-signing-cert-file="+c.cert("ca"), "--cluster-signing-key-file="+c.key("ca"))
}

func (c *Cluster) scheduler() component {
	config := c.kubeconfig("scheduler")
	return c.kubernetes("kube-scheduler", "https://127.0.0.1:10259/healthz",
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--bind-address=127.0.0.1", "--leader-elect=false")
}

func (c *Cluster) kubelet() component {
	return c.kubernetes("kubelet", "http://127.0.0.1:10248/healthz",
		"--config="+c.config("kubelet.yaml"), "--kubeconfig="+c.kubeconfig("kubelet"),
		"--root-dir="+c.path("kubelet"), "--cert-dir="+c.path("kubelet", "pki"),
		"--containerd="+c.containerdSocket(), // where its cAdvisor looks
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress)
}

func (c *Cluster) proxy() component {
	return c.kubernetes("kube-proxy", "http://127.0.0.1:10256/healthz",
		"--kubeconfig="+c.kubeconfig("proxy"),
		"--proxy-mode=iptables", "--cluster-cidr="+podRange,
		"--hostname-override="+nodeName, "--bind-address="+nodeAddress,
		// Only the machine's first network namespace has these settings: leave them.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s")
}

func (c *Cluster) containerd() component {
	return component{
		proc.Process{
			Name: "containerd",
			Args: []string{c.program("containerd"), "--config", c.config("containerd.toml")},
			Env:  []string{"PATH=" + c.Programs + ":" + os.Getenv("PATH")}, // it looks for its shim there
		},
		func() error { return c.ctr("version").Run() },
	}
}

func (c *Cluster) coredns() component {
	return component{
		proc.Process{Name: "coredns", Args: []string{c.program("coredns"), "-conf", c.config("Corefile")}},
		func() error { return c.connect(nodeAddress + ":53") },
	}
}

func (c *Cluster) provisioner() component {
	return component{
		proc.Process{Name: "provisioner", Args: []string{
			c.program("provisioner"), "-kubeconfig", c.kubeconfig("provisioner"), "-root", c.path("volumes"), "-node", nodeName,
		}},
		func() error { return nil },
	}
}

// get asks an address inside the cluster's network and is content with a good status.
func (c *Cluster) get(url string) error {
	// Some components make their own certificate at every start; that they answer is what counts here.
	settings := &tls.Config{InsecureSkipVerify: true}
	if pair, err := tls.LoadX509KeyPair(c.cert("admin"), c.key("admin")); err == nil {
		settings.Certificates = []tls.Certificate{pair}
	}
	client := http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{DialContext: c.network().DialContext, TLSClientConfig: settings, DisableKeepAlives: true},
	}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

func (c *Cluster) connect(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	connection, err := c.network().DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return connection.Close()
}
