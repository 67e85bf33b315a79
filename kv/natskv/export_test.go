package natskv

// SetChunkSize makes Restore send chunks of n bytes, until the test is over.
func SetChunkSize(t interface{ Cleanup(func()) }, n int) {
	old := chunkSize
	chunkSize = n
	t.Cleanup(func() { chunkSize = old })
}
