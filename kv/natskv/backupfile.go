package natskv

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv/internal/archive"
)

// The files of a backup. Newer tools of NATS call the data of newer servers by the
// newer name, and read both.
const (
	metaName    = "backup.json"
	dataName    = "stream.tar.s2"
	newDataName = "stream.arc.s2"
)

// Backup describes a backup in a folder.
type Backup struct {
	Bucket       string
	Config       Config
	Taken        time.Time   // by Backup; zero if another tool has made it
	Bytes        int64       // of its files
	Entries      uint64      // 0 if a server before 2.15 has made it, whose format is its own
	Keys         int         // that have a value; the same
	LastRevision kv.Revision // the same
}

// metaFile is backup.json, in which other tools do not mind the proof.
type metaFile struct {
	Config map[string]json.RawMessage `json:"config"`
	State  json.RawMessage            `json:"state"`
	Proof  *proof                     `json:"keyturn,omitempty"`
}

// proof is what Backup knows of the archive beside it.
type proof struct {
	Taken  time.Time `json:"taken"`
	Bytes  int64     `json:"bytes"`
	SHA256 string    `json:"sha256"`
}

// content is what a backup has.
type content struct {
	meta    metaFile
	stream  jetstream.StreamConfig
	path    string
	size    int64
	old     bool              // in the format of servers before 2.15, which is theirs alone
	prefix  string            // of all subjects
	newest  map[string]uint64 // the newest sequence of each subject
	expires bool              // messages may have expired, or more are in it than the bucket keeps
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", kv.ErrBackup, fmt.Errorf(format, args...))
}

// readBackup reads a whole backup and returns what it has, or kv.ErrBackup when it is
// not whole. Errors of the file system stay what they are.
func readBackup(dir string) (Backup, content, error) {
	fail := func(err error) (Backup, content, error) { return Backup{}, content{}, err }
	c, err := openBackup(dir)
	if err != nil {
		return fail(err)
	}
	config := configOf(c.stream)
	b := Backup{Bucket: config.Bucket, Config: config, Bytes: c.size}
	meta, err := os.Stat(filepath.Join(dir, metaName))
	if err != nil {
		return fail(err)
	}
	b.Bytes += meta.Size()
	if p := c.meta.Proof; p != nil {
		b.Taken = p.Taken
		sum, size, err := sumFile(c.path)
		if err != nil {
			return fail(err)
		}
		if size != p.Bytes || sum != p.SHA256 {
			return fail(damaged("%s has %d bytes and not the %d that were written, or others", c.path, size, p.Bytes))
		}
	}
	file, err := os.Open(c.path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	r, err := archive.NewReader(file)
	if errors.Is(err, archive.ErrFormat) {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return fail(err)
		}
		c.old = true
		return b, c, checkTar(file, c.stream.Name)
	}
	if err != nil {
		return fail(damaged("%w", err))
	}
	if err := c.scan(r, &b); err != nil {
		return fail(err)
	}
	return b, c, nil
}

// openBackup reads backup.json and finds the data.
func openBackup(dir string) (c content, err error) {
	data, err := os.ReadFile(filepath.Join(dir, metaName))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c.meta); err != nil {
		return c, damaged("%s: %w", metaName, err)
	}
	if c.stream, err = decodeConfig(c.meta.Config); err != nil {
		return c, damaged("%s: %w", metaName, err)
	}
	name, ok := strings.CutPrefix(c.stream.Name, streamPrefix)
	if !ok || kv.CheckBucket(name) != nil {
		return c, damaged("it is of stream %q, which is no bucket", c.stream.Name)
	}
	c.prefix = subjectPrefix + name + "."
	if m := c.stream.Mirror; m != nil {
		c.prefix = subjectPrefix + strings.TrimPrefix(m.Name, streamPrefix) + "."
	}
	for _, name := range []string{dataName, newDataName} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return c, err
		case c.path != "":
			return c, damaged("%s and %s are both there", dataName, newDataName)
		}
		c.path, c.size = path, info.Size()
	}
	if c.path == "" {
		return c, damaged("there is no %s", dataName)
	}
	return c, nil
}

// scan reads an archive to its end.
func (c *content) scan(r *archive.Reader, b *Backup) error {
	c.newest = map[string]uint64{}
	live := map[string]bool{}
	kept := map[string]int64{}
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged("%w", err)
		}
		if !strings.HasPrefix(m.Subject, c.prefix) {
			return damaged("message %d is of another bucket", m.Sequence)
		}
		var header nats.Header
		if len(m.Header) > 0 {
			if header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
				return damaged("the header of message %d: %w", m.Sequence, err)
			}
		}
		b.Entries++
		b.LastRevision = kv.Revision(m.Sequence)
		c.newest[m.Subject] = m.Sequence
		live[m.Subject] = operation(header) == kv.OpPut
		kept[m.Subject]++
		c.expires = c.expires || header.Get(jetstream.MsgTTLHeader) != "" || kept[m.Subject] > c.stream.MaxMsgsPerSubject
	}
	c.expires = c.expires || c.stream.MaxAge > 0
	b.LastRevision = max(b.LastRevision, kv.Revision(r.State().Last))
	for _, yes := range live {
		if yes {
			b.Keys++
		}
	}
	return nil
}

// checkTar checks the checksums of an archive of a server before 2.15, and that it is
// of the stream and has its end.
func checkTar(file io.Reader, stream string) error {
	last := &tail{}
	plain := io.TeeReader(s2.NewReader(file), last)
	found := false
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged("%w", err)
		}
		if h.Name != "meta.inf" {
			continue
		}
		var meta struct {
			Name string `json:"name"`
		}
		if err := json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&meta); err != nil || meta.Name != stream {
			return damaged("it is not an archive of %s", stream)
		}
		found = true
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return damaged("%w", err)
	}
	// Only these blocks tell an end from a cut between two files.
	if !found || !bytes.Equal(last[:], make([]byte, len(last))) {
		return damaged("the archive has no end")
	}
	return nil
}

// tail is the last two blocks of a tar file.
type tail [1024]byte

func (t *tail) Write(p []byte) (int, error) {
	if n := len(p); n < len(t) {
		copy(t[:], t[n:])
		copy(t[len(t)-n:], p)
	} else {
		copy(t[:], p[n-len(t):])
	}
	return len(p), nil
}

// sumFile returns the SHA-256 and the size of a file.
func sumFile(path string) (sum string, size int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	h := sha256.New()
	size, err = io.Copy(h, file)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
