package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/broker"
)

func (a *app) brokerCommand() *cobra.Command {
	var opts broker.ServeOptions
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Serve the store on this host until Ctrl-C",
		Long: `Serve the store on this host until Ctrl-C or SIGTERM, for its commands and machines and,
with --listen or --config, for clients of NATS. All other commands serve the store for
as long as they run if nobody else does, so it is needed by none of them.

Nothing listens beyond loopback unless it is named, and not to whoever comes: for other
hosts name the users, and TLS, in a configuration file of nats-server. There, too, is how
to build clusters and leaf nodes. Without sync_interval in it every write is synced. The
store is its store_dir unless --store is given; its log settings are not used.

When it is ready it prints so on stderr, with the URL for --server if there is one; with
--json that is an object on stdout.`,
		Example: `  keyturn broker
  keyturn broker --listen 4222
  keyturn broker --config /etc/keyturn/broker.conf`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.given("server") {
				return a.wrong("--server is of no use here: this is the server")
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			log, err := a.logger(slog.LevelInfo, a.stderr)
			if err != nil {
				return err
			}
			opts.Dir, opts.Log = a.store, log
			opts.Ready = func(url string) {
				if a.json {
					_ = a.print("%s", jsonLine(map[string]string{"ready": url}))
				}
				if url == "" {
					log.Info("ready")
				} else {
					log.Info("ready", "url", url)
				}
			}
			return broker.Serve(ctx, opts)
		},
	}
	cmd.Flags().StringVar(&opts.Listen, "listen", "", "let clients of NATS in at this `ADDRESS`, HOST:PORT or a port of loopback")
	cmd.Flags().StringVar(&opts.Config, "config", "", "a configuration `FILE` of nats-server")
	_ = cmd.MarkFlagFilename("config") // it fails only for a flag that is not there
	return cmd
}
