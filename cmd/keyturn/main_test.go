package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyturn": main})
}

// TestScripts runs the command line as its users do.
func TestScripts(t *testing.T) {
	params := scripts(t)
	params.Dir = "testdata/script"
	testscript.Run(t, params)
}

// scripts returns how scripts are run. Besides the commands of testscript there are
//
//	status N COMMAND...      run a command that must exit with N
//	await FILE [REGEXP]      wait until a file is there, and matches
//	until REGEXP COMMAND...  run a command until what it prints matches, then interrupt it
//	server NAME [ADDRESS]    start a NATS server, stopped at the end, with its URL in $NAME
//	nobody NAME              put into $NAME the URL of a server that is not there
//	slow NAME URL N FILE     put into $NAME the URL of a way to that server which after N bytes
//	                         becomes slow, and makes a file then
//	clock                    start the clock
//	within DURATION          check that no more has passed since then
func scripts(t *testing.T) testscript.Params {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("KEYTURN_STORE", filepath.Join(env.WorkDir, "store"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second
			return copyExamples(filepath.Join(env.WorkDir, "examples"), examples)
		},
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
			"await":  await,
			"until":  until,
			"server": startServer,
			"nobody": nobody,
			"slow":   slow,
			"clock":  clock,
			"within": within,
		},
	}
}

// copyExamples copies the examples without what somebody who tried them has left there.
func copyExamples(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	for _, left := range []string{"machine_data.json", "machine_state.json", "deployed.txt"} {
		paths, err := filepath.Glob(filepath.Join(to, "machines", "*", left))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if want := args[0]; strconv.Itoa(got) != want {
		ts.Fatalf("%s exited with %d, want %s; it printed\n%s%s", args[1], got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: await FILE [REGEXP]")
	}
	want := regexp.MustCompile("")
	if len(args) == 2 {
		want = regexp.MustCompile("(?m)" + args[1])
	}
	path := ts.MkAbs(args[0])
	var text []byte
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if text, err = os.ReadFile(path); err == nil && want.Match(text) {
			return
		}
	}
	ts.Fatalf("%s does not become what it should (%v), it holds\n%s", args[0], err, text)
}

// until leaves what the command has printed in the file printed.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND...")
	}
	path := ts.MkAbs("printed")
	file, err := os.Create(path)
	ts.Check(err)
	defer file.Close()
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), file, file
	for _, name := range []string{"HOME", "PATH", "KEYTURN_STORE", "NATS_URL", "TZ", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(cmd.Start())
	defer func() {
		ts.Check(cmd.Process.Signal(os.Interrupt))
		ts.Check(cmd.Wait())
	}()
	await(ts, false, []string{path, args[0]})
}

func startServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: server NAME [ADDRESS]")
	}
	host, port := "127.0.0.1", server.RANDOM_PORT
	if len(args) == 2 {
		_, address, _ := strings.Cut(args[1], "://")
		_, text, err := net.SplitHostPort(address)
		ts.Check(err)
		port, err = strconv.Atoi(text)
		ts.Check(err)
	}
	srv, err := server.NewServer(&server.Options{
		Host: host, Port: port, JetStream: true, StoreDir: ts.MkAbs("server-" + args[0]), NoSigs: true, NoLog: true,
	})
	ts.Check(err)
	srv.Start()
	ts.Defer(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(20 * time.Second) {
		ts.Fatalf("the server does not start")
	}
	ts.Setenv(args[0], srv.ClientURL())
}

func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: nobody NAME")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Check(listener.Close())
	ts.Setenv(args[0], "nats://"+listener.Addr().String())
}

func slow(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: slow NAME URL N FILE")
	}
	most, err := strconv.Atoi(args[2])
	ts.Check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], "nats://"+listener.Addr().String())
	s := &slowly{most: int64(most), file: ts.MkAbs(args[3])}
	to := strings.TrimPrefix(args[1], "nats://")
	var ways sync.WaitGroup
	ways.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				ways.Go(func() {
					defer client.Close()
					defer server.Close()
					s.copy(way[0], way[1])
				})
			}
		}
	})
	ts.Defer(func() {
		listener.Close()
		ways.Wait()
	})
}

// slowly copies at full speed up to a number of bytes, and then at less than 1 MB/s.
type slowly struct {
	most int64
	file string // made then
	sent atomic.Int64
}

func (s *slowly) copy(to io.Writer, from io.Reader) {
	for piece := make([]byte, 4096); ; {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		if s.sent.Add(int64(n)) > s.most {
			if err := os.WriteFile(s.file, nil, 0o600); err != nil {
				return
			}
			<-time.After(5 * time.Millisecond)
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

func clock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: clock")
	}
	ts.Setenv("CLOCK", time.Now().Format(time.RFC3339Nano))
}

func within(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: within DURATION")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	began, err := time.Parse(time.RFC3339Nano, ts.Getenv("CLOCK"))
	ts.Check(err)
	if took := time.Since(began); took > limit {
		ts.Fatalf("it took %v, which is more than %v", took, limit)
	}
}
