package archive_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"

	ours "github.com/keyturn-io/keyturn/kv/natskv/internal/archive"
)

// messages are three, one of them of a size.
func messages(size int) []ours.Message {
	return []ours.Message{
		{Subject: "$KV.B.a", Sequence: 3, Time: 1700000000000000001, Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"), Data: []byte{}},
		{Subject: "$KV.B.b", Sequence: 4, Time: 5, Header: []byte{}, Data: bytes.Repeat([]byte("x"), size)},
		{Subject: "$KV.B.é", Sequence: 900, Time: -1, Header: []byte{}, Data: []byte("\x00\xff")},
	}
}

var state = ours.State{Msgs: 3, Bytes: 100, First: 2, Last: 901}

func write(t testing.TB, messages []ours.Message) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := ours.NewWriter(&buf, state, 7)
	check(t, err)
	for _, m := range messages {
		check(t, w.Write(m))
	}
	if err := w.Write(messages[0]); err == nil {
		t.Error("a message that goes back is not refused")
	}
	check(t, w.Close())
	return buf.Bytes()
}

func read(data []byte) (got []ours.Message, err error) {
	r, err := ours.NewReader(bytes.NewReader(data))
	for err == nil {
		var m ours.Message
		if m, err = r.Next(); err == nil {
			got = append(got, m)
		}
	}
	return got, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	messages := messages(3 << 20)
	data := write(t, messages)
	got, err := read(data)
	if err != io.EOF {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, messages) {
		t.Errorf("read %d messages, which differ from the %d that were written", len(got), len(messages))
	}

	// The server reads the same.
	r := archive.NewReader(s2.NewReader(bytes.NewReader(data)))
	var names []string
	for {
		h, err := r.Next()
		check(t, err)
		body, err := io.ReadAll(r)
		check(t, err)
		if names = append(names, h.Name); h.Name == "" {
			break
		}
		if i := len(names) - 2; i >= 0 && (h.Sequence != messages[i].Sequence || h.Timestamp != messages[i].Time ||
			!bytes.Equal(body, append(bytes.Clone(messages[i].Header), messages[i].Data...))) {
			t.Errorf("the server reads %+v", h)
		}
	}
	if diff := cmp.Diff([]string{"state.json", "$KV.B.a", "$KV.B.b", "$KV.B.é", ""}, names); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestServerArchive reads what the server writes, consumers included.
func TestServerArchive(t *testing.T) {
	var buf bytes.Buffer
	c := s2.NewWriter(&buf)
	w := archive.NewWriter(c)
	for _, e := range []struct {
		name string
		seq  uint64
		body string
	}{{"state.json", 0, `{"messages":1,"first_seq":5,"last_seq":5,"consumer_count":1}`}, {"consumers/x", 0, "{}"}, {"a", 5, "v"}, {"", 0, ""}} {
		check(t, w.WriteHeader(&archive.Header{Name: e.name, Sequence: e.seq, PayloadSize: int64(len(e.body))}))
		_, err := w.Write([]byte(e.body))
		check(t, err)
	}
	check(t, c.Close())
	got, err := read(buf.Bytes())
	if err != io.EOF || len(got) != 1 || got[0].Subject != "a" || string(got[0].Data) != "v" {
		t.Errorf("read %+v, %v", got, err)
	}
}

// TestDamaged cuts an archive at every byte, and flips one.
func TestDamaged(t *testing.T) {
	messages := messages(100)
	data := write(t, messages)
	for n := range data {
		if _, err := read(data[:n]); !errors.Is(err, ours.ErrDamaged) && !errors.Is(err, ours.ErrFormat) {
			t.Fatalf("cut at byte %d of %d: %v", n, len(data), err)
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 4
		got, err := read(flipped)
		if !errors.Is(err, ours.ErrDamaged) && !errors.Is(err, ours.ErrFormat) && !reflect.DeepEqual(got, messages) {
			t.Fatalf("a bit is wrong in byte %d of %d: %v", n, len(data), err)
		}
	}
	var more bytes.Buffer
	c := s2.NewWriter(&more)
	_, err := c.Write([]byte("more"))
	check(t, err)
	check(t, c.Close())
	if _, err := read(append(data, more.Bytes()...)); !errors.Is(err, ours.ErrDamaged) {
		t.Errorf("an archive that goes on: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	data := write(f, messages(100))
	f.Add(data)
	plain, err := io.ReadAll(s2.NewReader(bytes.NewReader(data)))
	check(f, err)
	f.Add(plain)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := read(data)
		if err == nil {
			t.Error("no error and no end")
		}
		var buf bytes.Buffer // and where the checksums are right
		w := s2.NewWriter(&buf, s2.WriterBlockSize(64<<10))
		_, err = w.Write(data)
		check(t, err)
		check(t, w.Close())
		_, _ = read(buf.Bytes())
	})
}
