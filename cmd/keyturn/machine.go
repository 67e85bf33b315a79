package main

import "github.com/spf13/cobra"

func (a *app) machineCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "machine",
		Short: "Run a machine",
	}, a.machineRunCommand())
}
