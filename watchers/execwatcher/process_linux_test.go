package execwatcher

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestGroupOfZombiesIsDead(t *testing.T) {
	leader := exec.Command("cat")
	stdin, err := leader.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	leader.SysProcAttr = attributes()
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	defer leader.Wait()
	group := leader.Process.Pid
	if !groupLives(group) {
		t.Error("a group is dead while its leader runs")
	}
	stdin.Close() // it ends, and nobody has waited for it
	over := time.After(10 * time.Second)
	for groupLives(group) {
		select {
		case <-over:
			t.Fatal("a group lives although all that is left is a zombie")
		default:
		}
	}
	if err := syscall.Kill(-group, 0); err != nil {
		t.Errorf("there is no zombie: %v", err)
	}
}
