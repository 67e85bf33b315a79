package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv/internal/archive"
)

// BackupOptions are the choices of Backup. The zero value works.
type BackupOptions struct {
	// Progress, unless nil, is called now and then with how many entries were
	// written, and how many there are about. It must not wait.
	Progress func(done, total uint64)
}

// backupAttempts is how often a backup is made anew when the bucket became another one
// meanwhile, a message was lost, or the proof fails.
const backupAttempts = 3

var errChanged = fmt.Errorf("%w: %w", kv.ErrUnavailable, doubtful("the bucket was created again or set back meanwhile"))

// Backup writes all entries of a bucket into a folder, which it makes, as nats stream
// backup does: backup.json and stream.tar.s2. Either tool restores what the other has
// written. Then it reads the folder again, and proves that every key is in it that
// had a value when it began and was not deleted meanwhile, with that value or a newer
// one. What fails leaves no backup.
//
// It returns kv.ErrBucketNotFound, an error that is fs.ErrExist when there is a
// backup in the folder, and kv.ErrUnavailable when the bucket is being written faster
// than it can be read.
func (c *Client) Backup(ctx context.Context, name, dir string, opts BackupOptions) (Backup, error) {
	b, err := c.bucket(name)
	if err != nil {
		return Backup{}, err
	}
	if opts.Progress == nil {
		opts.Progress = func(uint64, uint64) {}
	}
	var made Backup
	for range backupAttempts {
		made, err = b.backUp(ctx, dir, opts.Progress)
		if !again(err) && !errors.Is(err, kv.ErrBackup) {
			break
		}
	}
	if err != nil {
		return Backup{}, fmt.Errorf("back up bucket %s: %w", name, err)
	}
	return made, nil
}

// streamInfo is what the server says of a stream, its config in its own words.
type streamInfo struct {
	Config  map[string]json.RawMessage `json:"config"`
	Created time.Time                  `json:"created"`
	State   json.RawMessage            `json:"state"`
	Cluster *struct{}                  `json:"cluster"`
}

func (b *bucket) info(ctx context.Context) (info streamInfo, state archive.State, err error) {
	k := b.client.call(ctx, b.client.opts.Timeout)
	defer k.cancel()
	if err := api(k, "STREAM.INFO."+b.stream, nil, &info); err != nil {
		return info, state, translate(err)
	}
	if err := json.Unmarshal(info.State, &state); err != nil {
		return info, state, errNotJetStream
	}
	sc, err := decodeConfig(info.Config)
	if err == nil && restoring(sc) {
		err = errRestoring
	}
	state.Consumers = 0
	return info, state, err
}

// backUp makes one attempt at a backup.
func (b *bucket) backUp(ctx context.Context, dir string, progress func(done, total uint64)) (made Backup, err error) {
	before, state, err := b.info(ctx)
	if err != nil {
		return made, err
	}
	live, err := b.live(ctx)
	if err != nil {
		return made, err
	}
	folder, err := newFolder(dir)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, folder.abandon()) }()
	if err := b.archive(ctx, folder.data, state, progress); err != nil {
		return made, err
	}
	if err := folder.seal(before.Config, before.State); err != nil {
		return made, err
	}
	after, last, err := b.info(ctx)
	if err != nil {
		return made, err
	}
	if !after.Created.Equal(before.Created) || last.Last < state.Last {
		return made, errChanged
	}
	made, content, err := readBackup(folder.temporary)
	if err != nil {
		return made, err
	}
	if err := b.prove(ctx, content, live); err != nil {
		return made, err
	}
	if err := ctx.Err(); err != nil {
		return made, err
	}
	progress(made.Entries, made.Entries)
	return made, folder.publish()
}

// live returns the keys that have a value, with its revision.
func (b *bucket) live(ctx context.Context) (map[string]kv.Revision, error) {
	live := map[string]kv.Revision{}
	err := b.readAll(ctx, nil, func(snapshot map[string]*kv.Entry) {
		for key, e := range snapshot {
			if e.Operation == kv.OpPut {
				live[key] = e.Revision
			}
		}
	})
	return live, err
}

// readAll reads the bucket for as long as it takes: every message by each, or if that
// is nil the newest entries without their values by taken.
func (b *bucket) readAll(ctx context.Context, each func(*nats.Msg, *nats.MsgMetadata) error, taken func(map[string]*kv.Entry)) error {
	opening := b.client.call(ctx, b.client.opts.Timeout)
	defer opening.cancel()
	bound, err := b.bind(opening)
	if err != nil {
		return translate(err)
	}
	s := newSession(b, bound, taken, func(kv.Entry) {})
	s.each = each
	if err := s.open(opening, []string{all}, each == nil); err != nil {
		return translate(err)
	}
	defer s.end()
	return translateNet(s.wait(ctx))
}

// archive writes all entries to a file. When the reading has come to the end of the
// stream, whatever is the newest of its key then was there when the reading passed it,
// so it is in the archive: nothing that is overwritten meanwhile is missed.
func (b *bucket) archive(ctx context.Context, file *os.File, state archive.State, progress func(done, total uint64)) error {
	w, err := archive.NewWriter(file, state, time.Now().UnixNano())
	if err != nil {
		return err
	}
	var done uint64
	err = b.readAll(ctx, func(msg *nats.Msg, meta *nats.MsgMetadata) error {
		if done++; done%256 == 1 {
			progress(done, max(done+meta.NumPending, state.Msgs))
		}
		return w.Write(archive.Message{
			Subject:  msg.Subject,
			Sequence: meta.Sequence.Stream,
			Time:     meta.Timestamp.UnixNano(),
			Header:   encodeHeader(msg.Header),
			Data:     msg.Data,
		})
	}, func(map[string]*kv.Entry) {})
	return errors.Join(err, w.Close())
}

// encodeHeader returns a header as it is stored.
func encodeHeader(h nats.Header) []byte {
	if len(h) == 0 {
		return nil
	}
	var s strings.Builder
	s.WriteString("NATS/1.0\r\n")
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			s.WriteString(name + ": " + value + "\r\n")
		}
	}
	s.WriteString("\r\n")
	return []byte(s.String())
}

// prove returns an error unless the archive has each key that had a value, as it was
// then or newer, or the key has none any more.
func (b *bucket) prove(ctx context.Context, has content, live map[string]kv.Revision) error {
	bound := b.bound.Load()
	if bound == nil {
		return errChanged
	}
	for _, key := range slices.Sorted(maps.Keys(live)) {
		if has.newest[bound.prefix+key] >= uint64(live[key]) {
			continue
		}
		var now kv.Entry
		err := b.do(ctx, "get", key, func(k *call, bound *binding) (err error) {
			now, err = b.newest(k, bound, key)
			return err
		})
		switch {
		case err == nil && now.Operation == kv.OpPut:
			return fmt.Errorf("%w: %s is not in it", kv.ErrBackup, key)
		case err != nil && !errors.Is(err, kv.ErrKeyNotFound):
			return err
		}
	}
	return nil
}
