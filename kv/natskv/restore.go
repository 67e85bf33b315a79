package natskv

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv/internal/archive"
)

// RestoreOptions are the choices of Restore. The zero value works.
type RestoreOptions struct {
	As        string     // the name that the bucket gets; empty is the one it had
	Replicas  int        // 0 is as many as it had
	Placement *Placement // nil is where it was; an empty one is anywhere
	DryRun    bool       // only verify, and ask whether the bucket is there

	// Progress, unless nil, is called now and then with how many bytes of the backup's
	// data were sent, and how many there are. It must not wait.
	Progress func(done, total uint64)
}

// chunkSize is how much is sent at once; tests make it less.
var chunkSize = 128 << 10

const (
	chunkWait   = 30 * time.Second // for one chunk to be taken
	restoreWait = 10 * time.Minute // for the server to end what has all been sent
	discardWait = 30 * time.Second // for what has failed to be removed

	// stalledAfter is longer than the server waits for more before it gives up.
	stalledAfter = 6 * time.Second
)

// Restore makes a bucket of a backup that Backup or nats stream backup has written,
// with the revisions and times that its entries had. It sends nothing before it has
// read and verified the whole backup. Until all of it has been restored nobody can put
// anything into it, and for this package there is no bucket. What fails or is
// interrupted leaves nothing; what a killed process has left is removed by the next Restore.
//
// It returns kv.ErrBackup when the backup is not whole, kv.ErrBucketExists when there
// is a bucket of that name, kv.ErrReplicas when there are too few servers, and
// kv.ErrUnsupported when the server is too old for the backup, or when a backup of a
// server before 2.15 should get another name.
func (c *Client) Restore(ctx context.Context, dir string, opts RestoreOptions) (Backup, error) {
	made, has, err := readBackup(dir)
	if err != nil {
		return Backup{}, fmt.Errorf("restore %s: %w", dir, err)
	}
	name := made.Bucket
	if opts.As != "" {
		name = opts.As
	}
	if err := kv.CheckBucket(name); err != nil {
		return Backup{}, err
	}
	if opts.Progress == nil {
		opts.Progress = func(uint64, uint64) {}
	}
	r := &restore{c: c, has: has, backup: made, opts: opts, name: name, id: rand.Text()}
	if err := r.run(ctx); err != nil {
		return Backup{}, fmt.Errorf("restore bucket %s: %w", name, translateNet(err))
	}
	made.Bucket = name
	return made, nil
}

// restore is one run of Restore.
type restore struct {
	c      *Client
	has    content
	backup Backup
	opts   RestoreOptions
	name   string
	id     string // tells what this run has made from what others have
	ended  bool   // the server has said that it expects nothing more
}

func (r *restore) run(ctx context.Context) error {
	if r.has.old && r.name != r.backup.Bucket {
		return fmt.Errorf("%w: a backup that a server before 2.15 has made cannot get another name", kv.ErrUnsupported)
	}
	if version := r.c.nc.ConnectedServerVersion(); !r.has.old && before215(version) {
		return fmt.Errorf("%w: the server has version %s, this backup needs 2.15 or newer", kv.ErrUnsupported, version)
	}
	if err := r.free(ctx); err != nil || r.opts.DryRun {
		return err
	}
	final, hiddenConfig, err := r.configs()
	if err != nil {
		return err
	}
	if err = r.send(ctx, hiddenConfig); err == nil {
		err = r.appear(ctx, final)
	}
	if err == nil {
		return nil
	}
	err = translateNet(err)
	if left := r.discard(ctx); left != nil {
		err = fmt.Errorf("%w; %w", err, left)
	}
	return err
}

func before215(version string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return n == 2 && (major < 2 || major == 2 && minor < 15)
}

// stream asks for the stream of the bucket; nil is none.
func (r *restore) stream(ctx context.Context) (*jetstream.StreamInfo, error) {
	k := r.c.call(ctx, r.c.opts.Timeout)
	defer k.cancel()
	var info jetstream.StreamInfo
	err := api(k, "STREAM.INFO."+streamPrefix+r.name, nil, &info)
	if errorCode(err) == jetstream.JSErrCodeStreamNotFound {
		return nil, nil
	}
	return &info, err
}

// free returns kv.ErrBucketExists unless the name is free. What a restore has left that
// nobody carries on is removed.
func (r *restore) free(ctx context.Context) error {
	info, err := r.stream(ctx)
	if err != nil || info == nil {
		return err
	}
	if !restoring(info.Config) {
		return kv.ErrBucketExists
	}
	for began := time.Now(); time.Since(began) < stalledAfter; {
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
		now, err := r.stream(ctx)
		if err != nil || now == nil {
			return err
		}
		if now.State.LastSeq != info.State.LastSeq || !restoring(now.Config) {
			return fmt.Errorf("%w: it is being restored by somebody else", kv.ErrBucketExists)
		}
	}
	if r.opts.DryRun {
		return nil
	}
	return r.remove(ctx)
}

// remove deletes the stream.
func (r *restore) remove(ctx context.Context) error {
	k := r.c.call(ctx, r.c.opts.Timeout)
	defer k.cancel()
	return api(k, "STREAM.DELETE."+streamPrefix+r.name, nil, nil)
}

// send sends the data to the server, which makes the stream of it.
func (r *restore) send(ctx context.Context, config map[string]json.RawMessage) error {
	to, err := r.begin(ctx, config)
	if err != nil {
		return err
	}
	total, first := uint64(r.has.size), true
	err = r.chunks(func(chunk []byte, read uint64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.opts.Progress(min(read, total), total)
		_, err := r.chunk(ctx, to, chunk, chunkWait)
		// In a cluster it takes a moment until our server knows who listens.
		for attempt := 1; first && errors.Is(err, nats.ErrNoResponders) && attempt < 30 && sleep(ctx, pause(attempt)); attempt++ {
			_, err = r.chunk(ctx, to, chunk, chunkWait)
		}
		first = false
		r.ended = errorCode(err) != 0
		return err
	})
	switch {
	case r.ended:
		return enoughServers(err, r.replicas())
	case err != nil:
		// The server need not wait whether more comes.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, failed := r.chunk(end, to, nil, time.Second)
		r.ended = errorCode(failed) != 0
		return err
	}
	answer, err := r.chunk(ctx, to, nil, restoreWait)
	r.ended = len(answer) > 0
	if err != nil {
		return enoughServers(err, r.replicas())
	}
	var info jetstream.StreamInfo
	if err := decodeAnswer(answer, &info); err != nil {
		return err
	}
	if !r.has.old && !r.has.expires && info.State.Msgs != r.backup.Entries {
		return fmt.Errorf("%w: the server has %d entries of %d", kv.ErrUnavailable, info.State.Msgs, r.backup.Entries)
	}
	r.opts.Progress(total, total)
	return nil
}

func (r *restore) replicas() int {
	if r.opts.Replicas > 0 {
		return r.opts.Replicas
	}
	return r.has.stream.Replicas
}

// begin asks the server to restore, and returns where it wants the data. Where a stream
// was deleted a moment ago it is asked again.
func (r *restore) begin(ctx context.Context, config map[string]json.RawMessage) (string, error) {
	stream := streamPrefix + r.name
	request := struct {
		Config map[string]json.RawMessage `json:"config"`
		State  json.RawMessage            `json:"state"`
	}{config, r.has.meta.State}
	k := r.c.call(ctx, r.c.opts.Timeout)
	defer k.cancel()
	for attempt := 1; ; attempt++ {
		var answer struct {
			Subject string `json:"deliver_subject"`
		}
		err := api(k, "STREAM.RESTORE."+stream, request, &answer)
		r.ended = errorCode(err) != 0
		switch code := errorCode(err); {
		case err == nil:
			return answer.Subject, nil
		case code == codeRestoreExists || code == codeStreamCreate:
			if info, _ := r.stream(ctx); info != nil {
				return "", kv.ErrBucketExists // somebody was faster
			}
			if sleep(k, pause(attempt)) {
				continue
			}
			return "", err
		default:
			return "", enoughServers(err, r.replicas())
		}
	}
}

// chunk sends one chunk, or the end if it is empty, and returns what the server says.
func (r *restore) chunk(ctx context.Context, to string, data []byte, wait time.Duration) ([]byte, error) {
	k := r.c.call(ctx, wait)
	defer k.cancel()
	reply, err := ask(k, &nats.Msg{Subject: to, Data: data})
	if err != nil {
		return nil, err
	}
	if len(reply.Data) > 0 {
		return reply.Data, decodeAnswer(reply.Data, nil)
	}
	return nil, nil
}

// chunks gives the data to f, piece by piece, with how many bytes of the file were read.
func (r *restore) chunks(f func(chunk []byte, read uint64) error) error {
	file, err := os.Open(r.has.path)
	if err != nil {
		return err
	}
	defer file.Close()
	from := &counter{r: file}
	size := min(chunkSize, int(r.c.nc.MaxPayload()))
	to := &chunker{size: size, send: func(chunk []byte) error { return f(chunk, from.n) }}
	if r.name == r.backup.Bucket {
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
		return to.flush()
	}
	in, err := archive.NewReader(from)
	if err != nil {
		return damaged("%w", err)
	}
	out, err := archive.NewWriter(to, in.State(), time.Now().UnixNano())
	if err != nil {
		return err
	}
	for {
		m, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged("%w", err)
		}
		if r.has.stream.Mirror == nil {
			m.Subject = subjectPrefix + r.name + "." + strings.TrimPrefix(m.Subject, r.has.prefix)
		}
		if err := out.Write(m); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return to.flush()
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n uint64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}

// chunker cuts what is written into chunks.
type chunker struct {
	size int
	send func([]byte) error
	buf  []byte
}

func (c *chunker) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	for len(c.buf) >= c.size {
		if err := c.send(c.buf[:c.size]); err != nil {
			return 0, err
		}
		c.buf = append(c.buf[:0], c.buf[c.size:]...)
	}
	return len(p), nil
}

func (c *chunker) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	return c.send(c.buf)
}

// appear makes what was restored a bucket, in one step. That can be done twice, and is
// when an answer is lost.
func (r *restore) appear(ctx context.Context, config map[string]json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, chunkWait)
	defer cancel()
	for attempt := 1; ; attempt++ {
		k := r.c.call(ctx, r.c.opts.Timeout)
		err := api(k, "STREAM.UPDATE."+streamPrefix+r.name, config, nil)
		k.cancel()
		// A cluster may need a moment until it knows the stream.
		again := errorCode(err) == jetstream.JSErrCodeStreamNotFound || errors.Is(translateNet(err), kv.ErrUnavailable)
		if !again || !sleep(ctx, pause(attempt)) {
			return err
		}
	}
}

// subject is the one that the stream has until it is a bucket.
func (r *restore) subject() string { return restorePrefix + r.name + "." + r.id }

// ours says whether there is a stream that this run has made and that is no bucket yet.
func (r *restore) ours(ctx context.Context) (bool, error) {
	if r.has.stream.Mirror != nil { // which has no subjects
		info, err := r.stream(ctx)
		return info != nil && info.Config.Metadata[restoringKey] == r.id, err
	}
	k := r.c.call(ctx, r.c.opts.Timeout)
	defer k.cancel()
	var answer struct {
		Streams []string `json:"streams"`
	}
	// In a cluster this knows streams too that no server has begun to make.
	err := api(k, "STREAM.NAMES", map[string]string{"subject": r.subject()}, &answer)
	return len(answer.Streams) > 0, err
}

// discard removes what a restore that failed has left, even when ctx is done.
func (r *restore) discard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	began, gone := time.Now(), 0
	for attempt := 1; ; attempt++ {
		there, err := r.ours(ctx)
		switch {
		case err == nil && there:
			gone = 0
			err = r.remove(ctx)
		case err == nil:
			// The server may be about to make it of what it has got.
			if gone++; gone >= 3 && (r.ended || time.Since(began) > stalledAfter) {
				return nil
			}
		}
		if r.c.nc.IsClosed() || !sleep(ctx, pause(attempt)) {
			return fmt.Errorf("what was sent may still be there, as stream %s, and is removed when it is restored again: %w",
				streamPrefix+r.name, translateNet(errors.Join(err, ctx.Err())))
		}
	}
}

// translateNet is translate for an error that may be one of the file system.
func translateNet(err error) error {
	var path *os.PathError
	if err == nil || errors.As(err, &path) {
		return err
	}
	return translate(err)
}
