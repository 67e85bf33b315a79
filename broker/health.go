package broker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// watch returns when ctx is done, or when the server needs a new start: a full or
// read-only disk makes it stop answering for good, also when the disk is well
// again. What was wrong from the start with a disk that takes data, say a damaged
// bucket, a new start does not mend, and a server of a cluster may well be waiting
// for the others.
func (o *owner) watch(ctx context.Context, trouble <-chan struct{}) {
	if o.server.JetStreamIsClustered() {
		<-ctx.Done()
		return
	}
	var look <-chan time.Time // nil while there is no reason to
	atStart := ailments(o.server)
	if atStart != "" && writeCanary(o.dir) != nil {
		atStart, look = "", time.After(time.Second)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-trouble:
			if look == nil {
				look = time.After(200 * time.Millisecond)
			}
		case <-look:
			look = nil
			now := ailments(o.server)
			if now == atStart {
				continue
			}
			if err := writeCanary(o.dir); err != nil {
				look = time.After(time.Second)
				continue
			}
			o.log.Warn("the store can be written again: starting its server anew", "was", now)
			return
		}
	}
}

// ailments are what the server says is wrong with it; empty is nothing.
func ailments(srv *server.Server) string {
	var all []string
	for _, e := range srv.Healthz(&server.HealthzOptions{Details: true}).Errors {
		all = append(all, e.Error)
	}
	return strings.Join(all, "; ")
}

// writeCanary finds out whether the disk takes data: enough of it for the
// server to get going, and synced, for some disks refuse only then.
func writeCanary(dir string) error {
	file, err := os.OpenFile(filepath.Join(dir, "canary"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(make([]byte, 1<<20)); err != nil {
		return err
	}
	return file.Sync()
}
