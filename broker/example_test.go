//go:build unix

package broker_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/nats-io/nats.go/jetstream"
)

// With nothing started before, a process puts a key and gets it back.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	store, err := broker.Connect(ctx, broker.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	js, err := jetstream.New(store.Conn())
	if err != nil {
		log.Fatal(err)
	}
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "CFG"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := kv.PutString(ctx, "username", "bob"); err != nil {
		log.Fatal(err)
	}
	entry, err := kv.Get(ctx, "username")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is %s at revision %d\n", entry.Key(), entry.Value(), entry.Revision())
	// Output: username is bob at revision 1
}
