//go:build !linux

package datalayer

import "os"

// syncData is Sync, where there is nothing that does less.
func syncData(f *os.File) error { return f.Sync() }
