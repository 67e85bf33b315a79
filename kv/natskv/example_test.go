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
