package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/keyturn-io/keyturn/kv/natskv"
)

// serve starts a server on a free port of loopback and returns its URL.
func serve(t *testing.T, opts *server.Options) string {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	opts.JetStream, opts.StoreDir = true, t.TempDir()
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	return srv.ClientURL()
}

// command runs a command line in this process.
func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// checkAccess checks that the flags open a server, and that it stays closed without them.
func checkAccess(t *testing.T, url, closed string, flags ...string) {
	t.Helper()
	flags = append(flags, "--server", url)
	if status, _, stderr := command(t, append([]string{"kv", "add", "CFG"}, flags...)...); status != 0 {
		t.Fatalf("kv add %v exits with %d:\n%s", flags, status, stderr)
	}
	if status, stdout, stderr := command(t, append([]string{"kv", "put", "CFG", "key", "value"}, flags...)...); status != 0 || stdout != "value\n" {
		t.Errorf("kv put %v exits with %d:\n%s%s", flags, status, stdout, stderr)
	}
	status, _, stderr := command(t, "kv", "get", "CFG", "key", "--server", closed)
	if status != exitFailure || !strings.Contains(stderr, "keyturn: connect to ") || strings.Contains(stderr, "secret") {
		t.Errorf("without them it exits with %d:\n%s", status, stderr)
	}
}

func file(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDialWithPassword(t *testing.T) {
	url := serve(t, &server.Options{Username: "user", Password: "secret"})
	with := strings.Replace(url, "://", "://user:secret@", 1)
	wrong := strings.Replace(url, "://", "://user:secret1@", 1)
	checkAccess(t, with, wrong)
}

func TestDialWithNkey(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	url := serve(t, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	checkAccess(t, url, url, "--nkey", file(t, "user.nk", seed))
}

func TestDialWithCreds(t *testing.T) {
	operator, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	account, _ := nkeys.CreateAccount()
	user, _ := nkeys.CreateUser()
	operatorID, _ := operator.PublicKey()
	accountID, _ := account.PublicKey()
	userID, _ := user.PublicKey()
	seed, _ := user.Seed()

	// JetStream wants a system account, which nobody here uses.
	system, _ := nkeys.CreateAccount()
	systemID, _ := system.PublicKey()
	systemJWT, err := jwt.NewAccountClaims(systemID).Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	accountClaims := jwt.NewAccountClaims(accountID)
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := accountClaims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	userJWT, err := jwt.NewUserClaims(userID).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(userJWT, seed)
	if err != nil {
		t.Fatal(err)
	}

	resolver := &server.MemAccResolver{}
	for id, claims := range map[string]string{systemID: systemJWT, accountID: accountJWT} {
		if err := resolver.Store(id, claims); err != nil {
			t.Fatal(err)
		}
	}
	url := serve(t, &server.Options{TrustedKeys: []string{operatorID}, AccountResolver: resolver, SystemAccount: systemID})
	checkAccess(t, url, url, "--creds", file(t, "user.creds", creds))
}

func TestDialWithTLS(t *testing.T) {
	cert, key := certificate(t)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	url := serve(t, &server.Options{
		TLSTimeout: 5,
		TLSVerify:  true,
		TLSConfig:  &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
	})
	ca := file(t, "ca.pem", cert)
	checkAccess(t, url, url, "--tls-ca", ca, "--tls-cert", ca, "--tls-key", file(t, "key.pem", key))
}

// certificate makes one that signs itself, is its own authority, and is good for
// servers and clients on loopback.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

func TestDialGivesUp(t *testing.T) {
	// It accepts, as the kernel does for a frozen server, and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	url := "nats://" + silent.Addr().String()
	status, _, stderr := command(t, "kv", "get", "CFG", "key", "--timeout", "1s", "--server", url+","+url)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to give up", took)
	}
	if status != exitFailure || !strings.Contains(stderr, "no answer in time: check the address") {
		t.Errorf("it exits with %d:\n%s", status, stderr)
	}
}

func TestRedacted(t *testing.T) {
	for server, want := range map[string]string{
		"nats://host:4222":          "nats://host:4222",
		" host":                     "nats://host",
		"tls://user:secret@host":    "tls://xxxxx@host",
		"token@host:4222":           "nats://xxxxx@host:4222",
		"nats://u:%zz@host":         "a URL that cannot be read",
		"nats://user:secret@host:x": "a URL that cannot be read",
	} {
		if got := natskv.Redacted(server); got != want {
			t.Errorf("%q is shown as %q, want %q", server, got, want)
		}
	}
	status, _, stderr := command(t, "kv", "get", "CFG", "key", "--server", "nats://u:secret%zz@host")
	if status != exitFailure || strings.Contains(stderr, "secret") || !strings.Contains(stderr, "this is no URL") {
		t.Errorf("it exits with %d:\n%s", status, stderr)
	}
}
