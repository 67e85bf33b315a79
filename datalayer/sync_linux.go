package datalayer

import (
	"os"
	"syscall"
)

// syncData is Sync without what is not needed to read the data again.
func syncData(f *os.File) error {
	return os.NewSyscallError("fdatasync", syscall.Fdatasync(int(f.Fd())))
}
