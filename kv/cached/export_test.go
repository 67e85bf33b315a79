package cached

// Doubts is how many keys there is a doubt about.
func (b *Bucket) Doubts() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.doubts)
}
