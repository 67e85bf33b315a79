// Package archive reads and writes the messages of a stream as nats-server 2.15 backs
// them up and restores them: the state of the stream, its messages in the order of
// their sequences, and an end, compressed by S2, which has a checksum for each of its
// chunks.
package archive

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/s2"
)

// magic is what an archive begins with.
const magic = "NATSARC1"

// stateName is the name of the first entry, and maxName the longest one.
const (
	stateName = "state.json"
	maxName   = 64 << 10
)

// MaxMessage is the most bytes that a message may have: far above what a server takes.
const MaxMessage = 256 << 20

// ErrFormat is an archive that is not in this format from its first bytes on, and
// ErrDamaged one that is and then is not, or ends too early.
var (
	ErrFormat  = errors.New("not an archive of nats-server 2.15")
	ErrDamaged = errors.New("damaged archive")
)

// State is what an archive says of its stream as it was when the archive was begun.
type State struct {
	Msgs      uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	First     uint64 `json:"first_seq"`
	Last      uint64 `json:"last_seq"`
	Consumers int    `json:"consumer_count"`
}

// Message is one message of a stream.
type Message struct {
	Subject  string
	Sequence uint64
	Time     int64 // nanoseconds since 1970
	Header   []byte
	Data     []byte
}

// Writer writes an archive.
type Writer struct {
	s2   *s2.Writer
	last uint64
}

// NewWriter returns a Writer that has written the beginning.
func NewWriter(w io.Writer, state State, now int64) (*Writer, error) {
	// One chunk after the other, so that what was written depends on nothing else.
	a := &Writer{s2: s2.NewWriter(w, s2.WriterConcurrency(1))}
	data, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(a.s2, magic); err != nil {
		return nil, err
	}
	return a, a.entry(Message{Subject: stateName, Time: now, Data: data})
}

// Write writes a message, whose sequence must be above that of the one before.
func (a *Writer) Write(m Message) error {
	if m.Sequence <= a.last {
		return fmt.Errorf("message %d after message %d", m.Sequence, a.last)
	}
	a.last = m.Sequence
	return a.entry(m)
}

func (a *Writer) entry(m Message) error {
	head := binary.AppendUvarint(nil, uint64(len(m.Subject)))
	head = binary.AppendVarint(head, m.Time)
	head = binary.AppendUvarint(head, m.Sequence)
	head = binary.AppendUvarint(head, uint64(len(m.Header)))
	head = binary.AppendUvarint(head, uint64(len(m.Data)))
	head = append(head, m.Subject...)
	for _, part := range [][]byte{head, m.Header, m.Data} {
		if _, err := a.s2.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// Close writes the end.
func (a *Writer) Close() error {
	if err := a.entry(Message{}); err != nil {
		return err
	}
	return a.s2.Close()
}

// Reader reads an archive.
type Reader struct {
	r     *bufio.Reader
	state State
	last  uint64
}

// NewReader returns a Reader that has read the beginning. It returns ErrFormat for
// something else than an archive.
func NewReader(r io.Reader) (*Reader, error) {
	a := &Reader{r: bufio.NewReader(s2.NewReader(r, s2.ReaderAllocBlock(64<<10)))}
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(a.r, begin); err != nil || string(begin) != magic {
		return nil, ErrFormat
	}
	m, err := a.entry()
	if err != nil {
		return nil, err
	}
	if m.Subject != stateName || json.Unmarshal(m.Data, &a.state) != nil {
		return nil, fmt.Errorf("%w: it does not begin with the state of a stream", ErrDamaged)
	}
	for range a.state.Consumers {
		// What followed the stream is nothing that a bucket has.
		if m, err := a.entry(); err != nil || m.Sequence != 0 || m.Subject == "" {
			return nil, fmt.Errorf("%w: a consumer is missing", ErrDamaged)
		}
	}
	a.state.Consumers = 0
	return a, nil
}

// State is what the archive says of its stream, without consumers.
func (a *Reader) State() State { return a.state }

// Next returns the next message, io.EOF after the last one, and ErrDamaged when the
// archive ends without an end or goes on after it.
func (a *Reader) Next() (Message, error) {
	m, err := a.entry()
	switch {
	case err != nil:
		return Message{}, err
	case m.Sequence == 0:
		if m.Subject != "" || m.Time != 0 || len(m.Header)+len(m.Data) > 0 {
			return Message{}, fmt.Errorf("%w: an entry that is no message", ErrDamaged)
		}
		if _, err := a.r.ReadByte(); !errors.Is(err, io.EOF) {
			return Message{}, fmt.Errorf("%w: it goes on after its end", ErrDamaged)
		}
		return Message{}, io.EOF
	case m.Sequence <= a.last || m.Sequence < a.state.First:
		return Message{}, fmt.Errorf("%w: message %d after message %d", ErrDamaged, m.Sequence, a.last)
	case m.Subject == "":
		return Message{}, fmt.Errorf("%w: message %d has no subject", ErrDamaged, m.Sequence)
	}
	a.last = m.Sequence
	return m, nil
}

func (a *Reader) entry() (m Message, err error) {
	damaged := func(err error) error { return fmt.Errorf("%w after message %d: %w", ErrDamaged, a.last, err) }
	name, err := binary.ReadUvarint(a.r)
	if err != nil {
		return m, damaged(err)
	}
	if m.Time, err = binary.ReadVarint(a.r); err != nil {
		return m, damaged(err)
	}
	var header, data uint64
	for _, n := range []*uint64{&m.Sequence, &header, &data} {
		if *n, err = binary.ReadUvarint(a.r); err != nil {
			return m, damaged(err)
		}
	}
	if name > maxName || header > MaxMessage || data > MaxMessage {
		return m, damaged(errors.New("impossible sizes"))
	}
	// A damaged size must not cost memory that the archive does not fill.
	all, err := io.ReadAll(io.LimitReader(a.r, int64(name+header+data)))
	if err != nil {
		return m, damaged(err)
	}
	if uint64(len(all)) != name+header+data {
		return m, damaged(io.ErrUnexpectedEOF)
	}
	m.Subject = string(all[:name])
	m.Header = all[name : name+header : name+header]
	m.Data = all[name+header:]
	return m, nil
}
