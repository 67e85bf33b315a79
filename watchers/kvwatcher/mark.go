package kvwatcher

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"

	"github.com/keyturn-io/keyturn/kv"
)

// mark is what a kv watcher has the machine keep: the keys as they were when their
// last change was settled. It belongs to one bucket and filter.
type mark struct {
	Bucket string          `json:"bucket"`
	Filter string          `json:"filter"`
	Epoch  kv.Epoch        `json:"epoch"`
	Keys   map[string]seen `json:"keys"`
}

// seen is a key that holds a value.
type seen struct {
	Revision kv.Revision `json:"revision"`
	Sum      string      `json:"sum"` // of the value as it stands in the data
}

// pending is what a kv watcher has the machine keep before the data is what the mark
// says although a command has had something else in between: the keys of which that is
// so. It belongs to one bucket and filter.
type pending struct {
	Bucket string   `json:"bucket"`
	Filter string   `json:"filter"`
	Keys   []string `json:"keys"`
}

// readPending returns the keys of a target whose last change was interrupted.
func readPending(raw json.RawMessage, t target) map[string]bool {
	keys := map[string]bool{}
	var p pending
	if json.Unmarshal(raw, &p) == nil && p.Bucket == t.bucket && p.Filter == t.filter {
		for _, key := range p.Keys {
			keys[key] = true
		}
	}

	return keys
}

// readMark returns what is settled for a target: nothing, when the mark is of another one.
func readMark(raw json.RawMessage, t target) mark {
	var m mark
	if json.Unmarshal(raw, &m) != nil || m.Bucket != t.bucket || m.Filter != t.filter || m.Keys == nil {
		return mark{Bucket: t.bucket, Filter: t.filter, Keys: map[string]seen{}}
	}

	return m
}

// with returns a mark in which some keys are what is given: a nil is a key that is gone.
func (m mark) with(epoch kv.Epoch, keys map[string]*seen) mark {
	m.Epoch = epoch
	m.Keys = maps.Clone(m.Keys)
	for key, s := range keys {
		if s == nil {
			delete(m.Keys, key)
		} else {
			m.Keys[key] = *s
		}
	}

	return m
}

// encode encodes a mark or what is pending.
func encode(m any) json.RawMessage {
	raw, err := json.Marshal(m)
	if err != nil {
		panic("it is strings and numbers: " + err.Error())
	}

	return raw
}

// sum stands for a value where the value itself must not.
func sum(value json.RawMessage) string {
	hash := sha256.Sum256(value)
	return base64.RawURLEncoding.EncodeToString(hash[:16])
}
