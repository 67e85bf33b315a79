package natskv_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// One connection and one Client serve all buckets of a process.
func Example() {
	ctx := context.Background()
	nc, err := nats.Connect("nats://127.0.0.1:4222", append(natskv.ConnOptions(), nats.RetryOnFailedConnect(true))...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := natskv.New(nc, natskv.Options{Timeout: 2 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	err = client.CreateBucket(ctx, natskv.Config{Bucket: "CFG", History: 5, MaxBytes: 1 << 20})
	if errors.Is(err, kv.ErrBucketExists) {
		log.Print("somebody has made it with other settings: ", err)
	} else if err != nil {
		log.Fatal(err)
	}
	bucket, err := client.Bucket("CFG")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := bucket.Put(ctx, "username", []byte("bob")); err != nil {
		log.Fatal(err)
	}
	for event, err := range bucket.Watch(ctx, kv.WatchOptions{Filters: []string{"username"}}) {
		if err != nil {
			log.Fatal(err)
		}
		log.Print(event.Kind, " ", event.Entry.Key)
	}
}

// openClient connects to a server that is there.
func openClient() *natskv.Client {
	nc, err := nats.Connect("nats://127.0.0.1:4222", natskv.ConnOptions()...)
	if err != nil {
		log.Fatal(err)
	}
	client, err := natskv.New(nc, natskv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return client
}

// A transaction moves a value from one key to another, unless somebody has changed it.
func ExampleClient_Txn() {
	ctx, client := context.Background(), openClient()
	bucket, err := client.Bucket("CFG")
	if err != nil {
		log.Fatal(err)
	}
	e, err := bucket.Get(ctx, "old")
	if err != nil {
		log.Fatal(err)
	}
	none := kv.Revision(0)
	_, err = client.Txn(ctx, "CFG", []natskv.Op{
		{Key: "new", Value: e.Value, Last: &none},
		{Key: "old", Operation: kv.OpDelete, Last: &e.Revision},
	})
	if errors.Is(err, kv.ErrWrongRevision) {
		log.Print("somebody was faster: nothing has changed")
	} else if err != nil {
		log.Fatal(err)
	}
}

// A backup is proved when Backup returns, and restored here under another name.
func ExampleClient_Backup() {
	ctx, client := context.Background(), openClient()
	made, err := client.Backup(ctx, "CFG", "/srv/backup/cfg", natskv.BackupOptions{})
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("%d keys in %d bytes", made.Keys, made.Bytes)
	if _, err := client.Restore(ctx, "/srv/backup/cfg", natskv.RestoreOptions{As: "CFG2"}); err != nil {
		log.Fatal(err)
	}
}

// Settings are changed one by one; all others stay as they are.
func ExampleClient_EditBucket() {
	err := openClient().EditBucket(context.Background(), "CFG", func(c *natskv.Config) {
		c.TTL = time.Minute
		c.Replicas = 3
	})
	if errors.Is(err, kv.ErrReplicas) {
		log.Print("this needs a cluster: ", err)
	} else if err != nil {
		log.Fatal(err)
	}
}
