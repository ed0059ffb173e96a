package main

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"synapse-keeper.dev/cluster/cluster/pki"
)

//go:embed config
var configFiles embed.FS

// writeConfig fills in the configuration files' templates.
func (c *Cluster) writeConfig() error {
	templates, err := template.ParseFS(configFiles, "config/*")
	if err != nil {
		return err
	}
	values := map[string]string{
		"Name":         c.Name,
		"Dir":          c.Dir,
		"ImageStore":   c.imageStore(),
		"Socket":       c.containerdSocket(),
		"Cgroup":       c.cgroup(),
		"NodeAddress":  nodeAddress,
		"PodRange":     podRange,
		"ServiceRange": serviceRange,
	}
	for _, t := range templates.Templates() {
		var text bytes.Buffer
		if err := t.Execute(&text, values); err != nil {
			return err
		}
		if err := os.WriteFile(c.config(t.Name()), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// users are who the components are to the API server.
var users = map[string]pki.Leaf{
	"admin":              {User: "admin", Groups: []string{"system:masters"}},
	"controller-manager": {User: "system:kube-controller-manager"},
	"scheduler":          {User: "system:kube-scheduler"},
	"proxy":              {User: "system:kube-proxy"},
	"coredns":            {User: "cluster:coredns", Groups: []string{"system:masters"}},
	"provisioner":        {User: "cluster:provisioner", Groups: []string{"system:masters"}},
	"kubelet": {
		User: "system:node:" + nodeName, Groups: []string{"system:nodes"},
		Names: []string{nodeName}, Addresses: []string{nodeAddress, "127.0.0.1"},
	},
	// The API server, as a server and as a client of the kubelet.
	"apiserver": {
		User: "kube-apiserver", Groups: []string{"system:masters"},
		Names:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		Addresses: []string{"127.0.0.1", apiService, nodeAddress},
	},
}

// writeCertificates makes all keys and certificates and a kubeconfig for each user. adminPort is the forwarder's.
func (c *Cluster) writeCertificates(adminPort string) error {
	if _, err := os.Stat(c.adminKubeconfig()); err == nil {
		return nil // it is written last
	}
	ca, err := pki.NewAuthority("cluster")
	if err != nil {
		return err
	}
	// API extensions know the API server by an authority of its own: the cluster's would let any user claim to be any other.
	proxyCA, err := pki.NewAuthority("front-proxy")
	if err != nil {
		return err
	}
	proxy, err := proxyCA.Issue(pki.Leaf{User: "front-proxy-client"})
	if err != nil {
		return err
	}
	private, public, err := pki.NewKey()
	if err != nil {
		return err
	}
	pairs := map[string]pki.Pair{"ca": ca.Pair, "front-proxy-ca": proxyCA.Pair, "front-proxy": proxy}
	for name, leaf := range users {
		if pairs[name], err = ca.Issue(leaf); err != nil {
			return err
		}
	}
	files := map[string][]byte{c.path("pki", "accounts.key"): private, c.path("pki", "accounts.pub"): public}
	for name, pair := range pairs {
		files[c.cert(name)], files[c.key(name)] = pair.Cert, pair.Key
		if _, isUser := users[name]; isUser {
			files[c.kubeconfig(name)] = kubeconfig("https://127.0.0.1:"+apiPort, ca.Cert, pair)
		}
	}
	for path, data := range files {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return writeWhole(c.adminKubeconfig(), kubeconfig("https://127.0.0.1:"+adminPort, ca.Cert, pairs["admin"]))
}

func kubeconfig(server string, ca []byte, user pki.Pair) []byte {
	base64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: cluster
contexts: [{name: cluster, context: {cluster: cluster, user: user}}]
clusters: [{name: cluster, cluster: {server: "%s", certificate-authority-data: "%s"}}]
users: [{name: user, user: {client-certificate-data: "%s", client-key-data: "%s"}}]
`, server, base64(ca), base64(user.Cert), base64(user.Key))
}

// writeWhole writes a file that is there in full or not at all.
func writeWhole(path string, data []byte) error {
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}
