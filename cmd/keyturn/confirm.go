package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// forceFlag adds the flag that makes a command not ask.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVarP(force, "force", "f", false, "do not ask")
}

// canAsk refuses to go on when somebody must be asked and nobody is there.
func (a *app) canAsk(force bool, what string) error {
	if !force && !isTerminal(a.stdin) {
		return fmt.Errorf("there is no terminal to ask %s: add --force", what)
	}
	return nil
}

// confirm asks a question on the terminal. Anything but a yes is a no.
func (a *app) confirm(question string, args ...any) bool {
	question = "? " + fmt.Sprintf(question, args...)
	fmt.Fprintf(a.stderr, "%s (y/N) ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil { // Ctrl-D, which ends no line
		fmt.Fprintln(a.stderr)
	}
	yes, word := false, "No"
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		yes, word = true, "Yes"
	}
	if isTerminal(a.stderr) && os.Getenv("TERM") != "dumb" {
		// The line above becomes the question with the answer as it was understood.
		fmt.Fprintf(a.stderr, "\x1b[1A\r\x1b[2K%s %s\n", question, word)
	}
	return yes
}
