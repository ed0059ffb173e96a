// Package pki makes the certificates that the cluster's components know each other by.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

const validity = 10 * 365 * 24 * time.Hour

// Pair is a certificate and its key, both as PEM.
type Pair struct {
	Cert, Key []byte
}

// Authority signs the certificates of others.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// Leaf says who a certificate is for. With names or addresses it serves under them as well.
type Leaf struct {
	User      string
	Groups    []string
	Names     []string
	Addresses []string
}

// NewAuthority makes a self-signed authority.
func NewAuthority(name string) (*Authority, error) {
	template := certificate(name)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	a := &Authority{}
	pair, key, err := sign(template, template, nil)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(pair.Cert)
	a.Pair, a.key = pair, key
	a.cert, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// Issue makes a certificate with a key of its own.
func (a *Authority) Issue(l Leaf) (Pair, error) {
	template := certificate(l.User)
	template.Subject.Organization = l.Groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.DNSNames = l.Names
	for _, address := range l.Addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	if len(l.Names)+len(l.Addresses) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	pair, _, err := sign(template, a.cert, a.key)
	return pair, err
}

// NewKey makes a private key and its public half; the API server signs ServiceAccount tokens with it.
func NewKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	private, err = encodeKey(key)
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}

func certificate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // clocks that differ a little
		NotAfter:     now.Add(validity),
	}
}

func sign(template, parent *x509.Certificate, parentKey crypto.Signer) (Pair, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, nil, err
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return Pair{}, nil, err
	}
	keyPEM, err := encodeKey(key)
	return Pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM}, key, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}
