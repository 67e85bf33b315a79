package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// flags are those that all commands have.
type flags struct {
	server  string // as it was given; empty is the store on this host
	creds   string
	nkey    string
	tlsCA   string
	tlsCert string
	tlsKey  string
	store   string
	timeout time.Duration

	json      bool
	logLevel  string
	logFormat string

	command string                 // the words of the command
	given   func(flag string) bool // says whether the command line has a flag
}

// wrong returns the error of a command line that is wrong.
func (f *flags) wrong(format string, args ...any) error {
	return &usageError{f.command, fmt.Sprintf(format, args...)}
}

func (f *flags) add(root *cobra.Command) {
	p := root.PersistentFlags()
	p.StringVar(&f.server, "server", "", "use NATS `URLS`, comma separated, not the store on this host (default $NATS_URL)")
	p.StringVar(&f.creds, "creds", "", "credentials `FILE` for the server")
	p.StringVar(&f.nkey, "nkey", "", "nkey seed `FILE` for the server")
	p.StringVar(&f.tlsCA, "tls-ca", "", "trust the server's certificate by this `FILE`")
	p.StringVar(&f.tlsCert, "tls-cert", "", "certificate `FILE` to show to the server")
	p.StringVar(&f.tlsKey, "tls-key", "", "key `FILE` of that certificate")
	p.StringVar(&f.store, "store", "", "keep the store on this host in `DIR` (default $KEYTURN_STORE, else a folder in the user's data folder)")
	f.timeout = 5 * time.Second
	p.Var((*duration)(&f.timeout), "timeout", "the `DURATION` that the server may take to answer")
	p.BoolVar(&f.json, "json", false, "print JSON")
	p.StringVar(&f.logLevel, "log-level", "", "log from this `LEVEL` up: debug, info, warn or error")
	p.StringVar(&f.logFormat, "log-format", "", "log as `FORMAT`, text or json (default text, and for people on a terminal)")
	for flag, values := range map[string][]string{
		"log-level":  {"debug", "info", "warn", "error"},
		"log-format": logFormats,
	} {
		// It fails only for a flag that is not there.
		_ = root.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

var logFormats = []string{"text", "json"}

// check refuses what no command can make sense of.
func (f *flags) check(cmd *cobra.Command) error {
	f.command, f.given = cmd.CommandPath(), cmd.Flags().Changed
	if !f.given("server") && !f.given("store") {
		f.server = os.Getenv("NATS_URL")
	}

	switch {
	case f.given("server") && f.server == "":
		return f.wrong("--server is empty: name a server, such as nats://localhost:4222")
	case f.given("server") && f.given("store"):
		return f.wrong("--server and --store exclude each other")
	case f.timeout <= 0:
		return f.wrong("--timeout must be more than 0, such as 5s")
	case f.creds != "" && f.nkey != "":
		return f.wrong("--creds and --nkey exclude each other")
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return f.wrong("--tls-cert and --tls-key belong together: give both")
	case f.logFormat != "" && !slices.Contains(logFormats, f.logFormat):
		return f.wrong("--log-format must be %s", strings.Join(logFormats, " or "))
	}
	for _, flag := range []string{"creds", "nkey", "tls-ca", "tls-cert", "tls-key"} {
		if f.server == "" && f.given(flag) {
			return f.wrong("--%s is of use with --server only", flag)
		}
	}
	if _, err := f.level(slog.LevelInfo); err != nil {
		return f.wrong("--log-level must be debug, info, warn or error")
	}
	return nil
}

// level returns the least level to log, which is otherwise unless it was named.
func (f *flags) level(otherwise slog.Level) (slog.Level, error) {
	if f.logLevel == "" {
		return otherwise, nil
	}
	var level slog.Level
	err := level.UnmarshalText([]byte(f.logLevel))
	return level, err
}
