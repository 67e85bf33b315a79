//go:build unix

package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// roles are what a process that runs this test binary may be, named in KEYTURN_TEST_ROLE,
// on the folder named in KEYTURN_STORE. SIGTERM ends it well.
var roles = map[string]func(ctx context.Context, dir string) error{
	"connect": roleConnect,
	"put":     rolePut,
	"dial":    roleDial,
}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv("KEYTURN_TEST_ROLE")]
	if !ok {
		os.Exit(m.Run())
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if err := role(ctx, os.Getenv("KEYTURN_STORE")); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// roleConnect connects and stays.
func roleConnect(ctx context.Context, dir string) error {
	store, err := Connect(ctx, Options{Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println("connected")
	<-ctx.Done()
	return store.Close()
}

// rolePut puts one key after the other and prints each that was acknowledged with its revision.
func rolePut(ctx context.Context, dir string) error {
	store, err := Connect(ctx, Options{Dir: dir})
	if ctx.Err() != nil && err != nil {
		return nil // ended before it came to anything
	}
	if err != nil {
		return err
	}
	defer store.Close()
	js, err := jetstream.New(store.Conn())
	if err != nil {
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%d.%d", os.Getpid(), i)
		// A put that is under way when SIGTERM comes is put to its end.
		putCtx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		if ack, err := js.Publish(putCtx, "$KV.CFG."+key, []byte(key)); err == nil {
			fmt.Println(key, ack.Sequence)
		}
		cancel()
	}
	return nil
}

// roleDial goes to the socket itself and prints what it is told there.
func roleDial(_ context.Context, dir string) error {
	conn, err := net.Dial("unix", filepath.Join(dir, socketName))
	if err != nil {
		return err
	}
	defer conn.Close()
	greeting, _ := bufio.NewReader(conn).ReadString(' ')
	fmt.Printf("told %q\n", greeting)
	return nil
}

// process is another process with a role.
type process struct {
	cmd   *exec.Cmd
	lines chan string // what it prints; closed when it is gone
}

// start begins a process that is killed at the latest with the test.
func start(t testing.TB, role, dir string, attr *syscall.SysProcAttr) *process {
	t.Helper()
	// Not os.Executable: another user has no way into the folder that it is in.
	cmd := exec.Command("/proc/self/exe")
	if _, err := os.Stat(cmd.Path); err != nil {
		cmd = exec.Command(os.Args[0])
	}
	cmd.Env = append(os.Environ(), "KEYTURN_TEST_ROLE="+role, "KEYTURN_STORE="+dir,
		"GORACE=atexit_sleep_ms=0") // else each process takes a second to end
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, make(chan string)}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
		cmd.Wait()
	}()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// end sends a signal and waits until the process is gone.
func (p *process) end(sig os.Signal) {
	p.cmd.Process.Signal(sig)
	for range p.lines {
	}
}

func TestTakeoverFromAnotherProcess(t *testing.T) {
	for name, sig := range map[string]os.Signal{"that ends": syscall.SIGTERM, "that is killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			verifyNoLeak(t)
			dir := t.TempDir()
			var worst time.Duration
			for range 5 {
				first := start(t, "connect", dir, nil)
				if got := <-first.lines; got != "connected" {
					t.Fatal(got)
				}
				store := connect(t, dir)
				kv := bucketWith(t, store, "k", "v")

				begin := time.Now()
				first.end(sig)
				eventually(t, "served again", func() bool {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
					defer cancel()
					_, err := kv.Get(ctx, "k")
					return err == nil
				})
				worst = max(worst, time.Since(begin))
				wantValue(t, kv, "k", "v")
				if err := store.Close(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("served again at most %v after the signal", worst)
			if worst > time.Second {
				t.Errorf("a takeover took %v, more than 1s", worst)
			}
		})
	}
}

// Processes that begin at the same time, put without a pause, and are killed or
// ended at random never serve the folder twice and lose nothing that was acknowledged.
func TestNoAcknowledgedPutIsLost(t *testing.T) {
	const kills, processes = 40, 4
	dir := t.TempDir()
	first := connect(t, dir)
	bucket(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	acks := make(chan string)
	ended := make(chan struct{})
	running := 0
	begin := func() *process {
		p := start(t, "put", dir, nil)
		running++
		go func() {
			for ack := range p.lines {
				acks <- ack
			}
			ended <- struct{}{}
		}()
		return p
	}
	var all [processes]*process
	for i := range all {
		all[i] = begin()
	}

	revisions := map[uint64]string{} // the keys that were acknowledged
	alarm := time.After(60 * time.Second)
	next, killed := rand.IntN(50), 0
	for running > 0 {
		select {
		case <-alarm:
			t.Fatalf("after %d kills and %d puts no put is acknowledged any more", killed, len(revisions))
		case <-ended:
			running--
			continue
		case ack := <-acks:
			var key string
			var revision uint64
			if _, err := fmt.Sscan(ack, &key, &revision); err != nil {
				t.Fatalf("%q: %v", ack, err)
			}
			if other, twice := revisions[revision]; twice {
				t.Errorf("%s and %s both have revision %d: there were two servers", key, other, revision)
			}
			revisions[revision] = key
			next--
		}
		if next > 0 || killed > kills {
			continue
		}
		sig := syscall.SIGKILL
		if killed%4 == 0 {
			sig = syscall.SIGTERM
		}
		if killed == kills { // all at once, and no new ones
			for _, p := range all {
				p.cmd.Process.Signal(sig)
			}
		} else {
			i := rand.IntN(processes)
			all[i].cmd.Process.Signal(sig)
			all[i] = begin()
		}
		killed++
		next = rand.IntN(50)
	}

	kv := bucket(t, connect(t, dir))
	for revision, key := range revisions {
		entry, err := kv.Get(t.Context(), key)
		if err != nil {
			t.Errorf("%s was acknowledged: %v", key, err)
			continue
		}
		if string(entry.Value()) != key || entry.Revision() != revision {
			t.Errorf("%s was acknowledged at revision %d and is %q at %d", key, revision, entry.Value(), entry.Revision())
		}
	}
	t.Logf("%d acknowledged puts, %d ends of a process", len(revisions), killed)
}

func TestOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can be another user")
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	root := t.TempDir()
	for _, dir := range []string{filepath.Dir(root), root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(name string, uid int, mode os.FileMode) string {
		dir := filepath.Join(root, name)
		for _, err := range []error{os.Mkdir(dir, mode), os.Chown(dir, uid, uid), os.Chmod(dir, mode)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	ours, theirs := mkdir("ours", 0, 0o700), mkdir("theirs", 65534, 0o700)
	store := connect(t, ours)
	bucketWith(t, store, "k", "v")
	closed := mkdir("closed", 65534, 0o500)
	mkdir("closed/jetstream", 65534, 0o700)
	if err := errors.Join(os.WriteFile(filepath.Join(closed, lockName), nil, 0o600), os.Chown(filepath.Join(closed, lockName), 65534, 65534)); err != nil {
		t.Fatal(err)
	}

	for dir, want := range map[string]string{
		ours:                               "it belongs to root: run as that user, or name a folder in KEYTURN_STORE that is yours",
		filepath.Join(ours, "below"):       "permission denied: name a folder in KEYTURN_STORE that is yours",
		filepath.Join(root, "new"):         "make the folder: permission denied: name one that can be made in KEYTURN_STORE",
		mkdir("read only", 65534, 0o500):   "lock the folder: permission denied: make it writable, or name another one in KEYTURN_STORE",
		closed:                             "listen unix " + filepath.Join(closed, socketName) + ": bind: permission denied: make it writable, or name another one in KEYTURN_STORE",
		filepath.Join(theirs, "of", "his"): "connected",
	} {
		p := start(t, "connect", dir, nobody)
		got := <-p.lines
		p.end(syscall.SIGTERM)
		if want != "connected" {
			want = "open store " + dir + ": " + want
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}

	_, err := Connect(t.Context(), Options{Dir: theirs})
	if err == nil || !strings.Contains(err.Error(), "it belongs to nobody: run as that user") {
		t.Errorf("root on another user's folder: %v", err)
	}

	// Even in a folder that was opened later.
	for path, mode := range map[string]os.FileMode{ours: 0o755, filepath.Join(ours, socketName): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-start(t, "dial", ours, nobody).lines; got != `told ""` {
		t.Errorf("another user at the socket: %s", got)
	}
	if got := <-start(t, "dial", ours, nil).lines; got != `told "INFO "` {
		t.Errorf("this user at the socket: %s", got)
	}
}
