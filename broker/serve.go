package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ServeOptions say how a store is served. The zero value serves the user's own store
// through its socket only.
type ServeOptions struct {
	Options

	// Listen is the address, HOST:PORT or PORT alone, at which clients may come in by
	// NATS's own protocol. Without a host it is loopback; port 0 is a free one. Empty
	// is none, or what the configuration file says.
	Listen string

	// Config is a configuration file of nats-server, for TLS, users, accounts, clusters
	// and leaf nodes. What it does not say about listening is loopback, and what it does
	// not say about syncing is to sync every write. Its store_dir is the store's folder,
	// unless Options.Dir is, and its log is Options.Log. Users that it names must be
	// users through the socket, too.
	Config string

	// Ready is called each time the store begins to be served: once, and again after a
	// disk was full. The URL is empty if nothing listens. Nil is nobody.
	Ready func(url string)
}

// lockPatience is how long Serve waits for another process to end that serves the
// store: a command does so for a moment.
const lockPatience = 3 * time.Second

// Serve serves the store in a folder until ctx is done and then returns nil, with
// nothing left running. It is an error that another process serves it, and one to
// listen beyond loopback to whoever comes.
func Serve(ctx context.Context, opts ServeOptions) error {
	configured, err := opts.server()
	if err != nil {
		return err
	}
	opts.Dir = cmp.Or(opts.Dir, configured.StoreDir)
	dir, log, err := opts.resolve()
	if err != nil {
		return err
	}
	if is, err := filepath.Abs(cmp.Or(configured.StoreDir, dir)); err != nil || is != dir {
		return fmt.Errorf("serve store %s: %s says that it is %s: name one of them", dir, opts.Config, configured.StoreDir)
	}
	configured.StoreDir = dir

	inFolder := func(err error) error { return fmt.Errorf("serve store %s: %w", dir, err) }
	if err := checkFolder(dir); err != nil {
		return inFolder(err)
	}
	lock, err := waitForLock(ctx, dir)
	if err != nil {
		return inFolder(err)
	}
	defer lock.unlock()
	for ctx.Err() == nil {
		o, err := own(dir, func() {}, configured.Clone, log)
		if err != nil {
			return inFolder(err)
		}
		if opts.Ready != nil {
			url := ""
			if o.server.Addr() != nil {
				url = o.server.ClientURL()
			}
			opts.Ready(url)
		}
		select {
		case <-ctx.Done():
			o.stop()
		case <-o.done: // its server needs a new start
		}
	}
	return nil
}

// waitForLock takes the folder's lock when the command that has it ends.
func waitForLock(ctx context.Context, dir string) (*folderLock, error) {
	for began := time.Now(); ; {
		lock, err := lockFolder(dir)
		switch {
		case !errors.Is(err, errLocked):
			return lock, err
		case time.Since(began) > lockPatience:
			return nil, fmt.Errorf("process %s serves it already: end that, or name another folder", servedBy(dir))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(redialDelay(1)):
		}
	}
}

// server returns the options of the server, or says what is wrong with them.
func (o ServeOptions) server() (*server.Options, error) {
	opts := embedded("")
	if o.Config != "" {
		var err error
		if opts, err = server.ProcessConfigFile(o.Config); err != nil {
			return nil, fmt.Errorf("configuration of the server: %w", err)
		}
		opts.SyncAlways = opts.SyncAlways || opts.SyncInterval == 0
		// Else a server of a cluster that is down is a line of the log each second, from all others.
		opts.ReconnectErrorReports = cmp.Or(opts.ReconnectErrorReports, server.DEFAULT_CONNECT_ERROR_REPORTS)
		if opts.Cluster.Name == "" && opts.Cluster.Port == 0 {
			opts.ServerName = cmp.Or(opts.ServerName, "keyturn")
		}
	}
	if o.Listen != "" {
		var err error
		if opts.Host, opts.Port, err = parseAddress(o.Listen); err != nil {
			return nil, err
		}
		opts.DontListen = false
	}
	for _, host := range []*string{
		&opts.Host, &opts.Cluster.Host, &opts.Gateway.Host, &opts.LeafNode.Host, &opts.Websocket.Host, &opts.MQTT.Host,
	} {
		*host = cmp.Or(*host, "127.0.0.1")
	}
	if !opts.DontListen && !isLoopback(opts.Host) && !knowsUsers(opts) {
		return nil, fmt.Errorf("listen on %s: whoever reaches this host could come in: name users in a configuration file (authorization, or accounts, or tls with verify), or listen on 127.0.0.1", opts.Host)
	}
	return opts, nil
}

// parseAddress reads HOST:PORT, or PORT alone.
func parseAddress(address string) (host string, port int, err error) {
	text := address
	if _, err := strconv.Atoi(address); err != nil {
		if host, text, err = net.SplitHostPort(address); err != nil {
			return "", 0, fmt.Errorf("listen on %q: want HOST:PORT, such as 127.0.0.1:4222", address)
		}
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen on %q: the port is a number up to 65535", address)
	}
	if number == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(number), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// knowsUsers says whether the server asks who comes, or is told not to.
func knowsUsers(o *server.Options) bool {
	return o.Username != "" || o.Authorization != "" || len(o.Users) > 0 || len(o.Nkeys) > 0 ||
		len(o.TrustedOperators) > 0 || len(o.TrustedKeys) > 0 || o.TLSVerify || o.TLSMap
}
