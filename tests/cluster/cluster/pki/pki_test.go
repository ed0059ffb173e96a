package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

func authority(t *testing.T, name string) (*Authority, *x509.CertPool) {
	t.Helper()
	a, err := NewAuthority(name)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.Cert) {
		t.Fatal("the authority's certificate is not PEM")
	}
	return a, pool
}

func keyPair(t *testing.T, a *Authority, l Leaf) tls.Certificate {
	t.Helper()
	pair, err := a.Issue(l)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify checks a certificate as a server does with its client's, or a client with its server's.
func verify(pair tls.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, name string) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}})
	return cert, err
}

func TestClientIsKnownByUserAndGroup(t *testing.T) {
	a, pool := authority(t, "ca")
	cert, err := verify(keyPair(t, a, Leaf{User: "admin", Groups: []string{"system:masters"}}), pool, x509.ExtKeyUsageClientAuth, "")
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "admin" || cert.Subject.Organization[0] != "system:masters" {
		t.Errorf("the server sees %v", cert.Subject)
	}
}

func TestServerHasItsNamesAndAddresses(t *testing.T) {
	a, pool := authority(t, "ca")
	server := keyPair(t, a, Leaf{User: "server", Names: []string{"kubernetes"}, Addresses: []string{"127.0.0.1"}})
	for name, want := range map[string]bool{"kubernetes": true, "127.0.0.1": true, "example.org": false, "127.0.0.2": false} {
		if _, err := verify(server, pool, x509.ExtKeyUsageServerAuth, name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyTheOwnAuthorityIsTrusted(t *testing.T) {
	_, pool := authority(t, "ca")
	other, _ := authority(t, "ca")
	if _, err := verify(keyPair(t, other, Leaf{User: "admin"}), pool, x509.ExtKeyUsageClientAuth, ""); err == nil {
		t.Error("a certificate of another authority was taken")
	}
}

func TestOnlyServersServe(t *testing.T) {
	a, pool := authority(t, "ca")
	if _, err := verify(keyPair(t, a, Leaf{User: "admin"}), pool, x509.ExtKeyUsageServerAuth, ""); err == nil {
		t.Error("a client's certificate may serve")
	}
}

func TestKeysMatch(t *testing.T) {
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(private)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(public)
	half, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(half) {
		t.Error("the public key is another key's")
	}
}
