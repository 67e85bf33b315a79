// Command keyturn runs machines that turn when a key changes, and puts the keys there.
//
// The file main.go says how a command line becomes a command, and what becomes of
// its error; store.go how a command comes to its buckets, explain.go what to do about
// an error, show.go how values look, and confirm.go how to ask. Each command stands in
// a file of its own. Running a machine has three more parts: the reporters, which show
// what it does to people, to a log or to programs, and the outlet, which keeps a
// blocked terminal from blocking it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// The exit statuses.
const (
	exitDone    = 0
	exitFailure = 1
	exitUsage   = 2
)

const exitStatus = `
Exit status:
  0 when it is done, 1 when it failed, 2 for wrong usage: a flag, name, key or setting
  that cannot be
`

// app is what all commands share: the streams of the process and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	flags
}

// run runs one command line and returns the status to exit with.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errTold) {
		return exitFailure
	}
	for line := range strings.Lines(plain(err)) {
		fmt.Fprintf(stderr, "keyturn: %s\n", strings.TrimSuffix(line, "\n"))
	}
	if _, usage := errors.AsType[*usageError](err); usage {
		return exitUsage
	}
	return exitFailure
}

// root returns the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyturn",
		Short: "Turn machines when a key changes",
		Long: `Keyturn runs machines that turn when a key changes, and puts the keys there.

Keys are kept in buckets: in a store on this host that all commands of one user
share and that needs no server to be started, or, with --server, on NATS JetStream.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpTemplate(root.HelpTemplate() + exitStatus)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{cmd.CommandPath(), flagError(err)}
	})
	a.flags.add(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.flags.check(cmd) }

	group(root, a.brokerCommand(), a.machineCommand(), a.kvCommand(), a.versionCommand())
	version := root.Flags().Bool("version", false, "print the version")
	help := root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *version {
			return a.printVersion()
		}
		return help(cmd, args)
	}
	root.InitDefaultCompletionCmd()
	completion, _, err := root.Find([]string{"completion"})
	if err != nil {
		panic(err) // cobra has just added it
	}
	for _, shell := range group(completion).Commands() {
		shell.Args = between(0, 0)
	}
	return root
}

// flagError says what is wrong with a flag, in words of ours where the value is no number.
func flagError(err error) string {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() != "" {
		return err.Error() + ": write -- before what is no flag and begins with -"
	}
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err.Error()
	}
	why := strings.TrimPrefix(invalid.Unwrap().Error(), "time: ")
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		why = "it is no number that fits"
		if number.Func == "ParseBool" {
			why = "it is neither true nor false"
		}
	}
	return fmt.Sprintf("--%s %s: %s", invalid.GetFlag().Name, invalid.GetValue(), why)
}

// group makes a command one that only has others under it.
func group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(commands...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		message := fmt.Sprintf("unknown command %q", args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			message += fmt.Sprintf(": did you mean %q?", near[0])
		}
		return &usageError{cmd.CommandPath(), message}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// errTold is the failure of a command that has said on stdout what failed.
var errTold = errors.New("told")

// usageError says that a command line is wrong, not that something failed.
type usageError struct {
	command string // whose help tells how it is right
	message string
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%s\nsee %s --help", e.message, e.command)
}

// between makes a command take from least to most arguments; a most below 0 is no limit.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return &usageError{cmd.CommandPath(), "wrong number of arguments: the usage is " + strings.TrimSuffix(cmd.UseLine(), " [flags]")}
		}
		return nil
	}
}

// interruptible returns a context that is done when somebody wants the process to end,
// and a terminal goes on in a new line behind its ^C. A second time ends it at once.
func (a *app) interruptible(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	told := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(told)
		// A signal is the cause, and not only like context.Canceled, unless stop was called.
		if context.Cause(ctx) != context.Canceled && isTerminal(a.stderr) {
			fmt.Fprintln(a.stderr)
		}
		cancel()
	})
	return ctx, func() {
		cancel()
		<-told
	}
}

// isTerminal says whether a stream of the process is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
