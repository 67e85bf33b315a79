//go:build unix

package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

// connect returns a Store on the folder that is closed with the test.
func connect(t testing.TB, dir string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := Connect(ctx, Options{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// verifyNoLeak looks for goroutines that are left when all that the test opens later is closed.
func verifyNoLeak(t *testing.T) { t.Cleanup(func() { goleak.VerifyNone(t) }) }

// bucket returns a bucket of the store, which it makes if it is not there.
func bucket(t testing.TB, store *Store) jetstream.KeyValue {
	t.Helper()
	js, err := jetstream.New(store.Conn())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "CFG"})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func put(t testing.TB, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	if _, err := kv.PutString(t.Context(), key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func bucketWith(t testing.TB, store *Store, key, value string) jetstream.KeyValue {
	kv := bucket(t, store)
	put(t, kv, key, value)
	return kv
}

func wantValue(t testing.TB, kv jetstream.KeyValue, key, want string) {
	t.Helper()
	entry, err := kv.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if got := string(entry.Value()); got != want {
		t.Errorf("%s = %q, want %q", key, got, want)
	}
}

// eventually calls ok until it is true, for at most 10 s, and returns how long it took.
func eventually(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < 10*time.Second {
		if ok() {
			return time.Since(begin)
		}
		<-tick.C
	}
	t.Fatalf("after 10 s still not: %s", what)
	return 0
}

func TestAStoreKeepsWhatWasPut(t *testing.T) {
	verifyNoLeak(t)
	dir := filepath.Join(t.TempDir(), "new", "store")
	for i := range 50 {
		store := connect(t, dir)
		kv := bucket(t, store)
		if i > 0 {
			wantValue(t, kv, "username", fmt.Sprint(i-1))
		}
		put(t, kv, "username", fmt.Sprint(i))
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantFiles(t, dir, "jetstream", "lock")
	wantMode(t, dir, 0o700)
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("in the folder are %q, want %q", got, want)
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %o, want %o", path, got, want)
	}
}

func TestServerSyncsAndListensNowhere(t *testing.T) {
	srv := connect(t, t.TempDir()).dialer.owner.server
	if !srv.JetStreamConfig().SyncAlways {
		t.Error("what is acknowledged may not be on disk")
	}
	if addr := srv.Addr(); addr != nil {
		t.Errorf("it listens on %s", addr)
	}
}

func TestSecondConnectionTakesOver(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	first, second := connect(t, dir), connect(t, dir)
	wantMode(t, filepath.Join(dir, "socket"), 0o600)
	put(t, bucket(t, first), "who", "first")
	kv := bucket(t, second)
	wantValue(t, kv, "who", "first")

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, "the second one is served", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := kv.PutString(ctx, "who", "second")
		return err == nil
	})
	t.Logf("served again after %v", took)
	wantValue(t, bucket(t, connect(t, dir)), "who", "second")
}

func TestLongPath(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	dir = filepath.Join(dir, strings.Repeat("long/", 40))
	if len(dir) < 200 {
		t.Fatalf("%d bytes are not long", len(dir))
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	put(t, bucket(t, connect(t, dir)), "k", "v")
	wantValue(t, bucket(t, connect(t, dir)), "k", "v")
	wantFiles(t, tmp)
}

func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	os.Chmod(dir, 0o700)
	connect(t, dir)
	wantValue(t, bucketWith(t, connect(t, dir), "k", "v"), "k", "v")
}

// People take a lock file that is there for one that was left behind.
func TestRemovedLockFile(t *testing.T) {
	dir := t.TempDir()
	put(t, bucket(t, connect(t, dir)), "k", "v")
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	second := connect(t, dir)
	wantValue(t, bucket(t, second), "k", "v")
	if second.dialer.owner != nil {
		t.Error("two servers on one folder")
	}
}

func TestUnusableFolders(t *testing.T) {
	verifyNoLeak(t)
	root := t.TempDir()
	file := filepath.Join(root, "file")
	os.WriteFile(file, nil, 0o600)
	open := filepath.Join(root, "open")
	os.Mkdir(open, 0o755)
	os.WriteFile(filepath.Join(open, "letter"), nil, 0o600)
	writable := filepath.Join(root, "writable")
	os.Mkdir(writable, 0o700)
	os.Chmod(writable, 0o777)
	damaged := filepath.Join(root, "damaged")
	os.Mkdir(damaged, 0o700)
	os.WriteFile(filepath.Join(damaged, "jetstream"), nil, 0o600)

	for dir, want := range map[string]string{
		file:                     "it is not a folder: name one in KEYTURN_STORE",
		filepath.Join(file, "x"): "it is not a folder: name one in KEYTURN_STORE",
		open:                     "others have access to it (mode 0755): chmod 700 it, or name another folder in KEYTURN_STORE",
		writable:                 "others have access to it (mode 0777): chmod 700 it, or name another folder in KEYTURN_STORE",
		damaged:                  "its server does not start: Can't start JetStream: storage directory is not a directory",
	} {
		_, err := Connect(t.Context(), Options{Dir: dir})
		if err == nil || !strings.HasPrefix(err.Error(), "open store "+dir+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	for _, test := range []struct{ store, data, home, want string }{
		{"/s", "/d", "/h", "/s"},
		{"", "/d", "/h", "/d/keyturn"},
		{"", "relative", "/h", "/h/.local/share/keyturn"},
		{"", "", "/h", "/h/.local/share/keyturn"},
	} {
		t.Setenv("KEYTURN_STORE", test.store)
		t.Setenv("XDG_DATA_HOME", test.data)
		t.Setenv("HOME", test.home)
		if got, err := DefaultDir(); got != test.want || err != nil {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
	}
	t.Setenv("HOME", "")
	if _, err := Connect(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "set KEYTURN_STORE") {
		t.Errorf("with no home: %v", err)
	}
}

func TestWaitsForAServerThatDoesNotAnswer(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	os.Chmod(dir, 0o700)
	lock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, Options{Dir: dir})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprintf("its server does not answer: dial unix %s/socket: connect: no such file or directory: wait for process %d on ", dir, os.Getpid())) {
		t.Fatalf("got %v", err)
	}
	lock.unlock()
	connect(t, dir)
}

func TestCloseFailsWhatStillWaits(t *testing.T) {
	verifyNoLeak(t)
	store := connect(t, t.TempDir())
	if _, err := store.Conn().Subscribe("deaf", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := store.Conn().Request("deaf", nil, time.Minute)
		failed <- err
	}()
	eventually(t, "the request is sent", func() bool { return store.Conn().Stats().OutMsgs > 0 })
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestLogHasNoValues(t *testing.T) {
	// nats-server has goroutines that log even after it has shut down.
	var log lockedBuffer
	store, err := Connect(t.Context(), Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	bucketWith(t, store, "password", "s3cret")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "Starting nats-server") {
		t.Error("the server's own log is missing")
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Errorf("a value is in the log:\n%s", log.String())
	}
}

// TestKilledIsNoWarning starts on what a process leaves that is killed. There is nothing to
// warn of: all that was acknowledged is there.
func TestKilledIsNoWarning(t *testing.T) {
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	store := connect(t, dir)
	bucketWith(t, store, "username", "bob")
	if err := store.Close(); err != nil { // which writes the index
		t.Fatal(err)
	}
	bucketWith(t, connect(t, dir), "username", "alice")
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(killed, "jetstream"), os.DirFS(filepath.Join(dir, "jetstream"))); err != nil {
		t.Fatal(err)
	}

	var log lockedBuffer
	store, err := Connect(t.Context(), Options{Dir: killed, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	wantValue(t, bucket(t, store), "username", "alice")
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
	if !strings.Contains(log.String(), "outdated") {
		t.Errorf("the server has nothing to say about its index:\n%s", log.String())
	}
}

// lockedBuffer is a bytes.Buffer that several goroutines may use.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
