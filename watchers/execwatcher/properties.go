package execwatcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
)

// Properties is what a manifest says about an exec watcher.
type Properties struct {
	Command                 Command           `json:"command"`
	Environment             Environment       `json:"environment"`
	Timeout                 watchers.Duration `json:"timeout"`
	KillGrace               watchers.Duration `json:"kill_grace"`
	OnLeave                 OnLeave           `json:"on_leave"`
	Retry                   Retry             `json:"retry"`
	ParseAsData             bool              `json:"parse_as_data"`
	MaxOutput               Bytes             `json:"max_output"`
	GatherInitialState      bool              `json:"gather_initial_state"`
	SuppressSuccessAnnounce bool              `json:"suppress_success_announce"`
	Disown                  bool              `json:"disown"`
}

func defaults() *Properties {
	return &Properties{
		Timeout:   watchers.Duration(10 * time.Second),
		KillGrace: watchers.Duration(5 * time.Second),
		OnLeave:   Finish,
		MaxOutput: 1 << 20,
	}
}

// Check says what is wrong with the properties together.
func (p *Properties) Check(watchers.Settings) []watchers.Problem {
	problems := p.Command.check()
	if p.Timeout <= 0 {
		problems = append(problems, watchers.Problem{Property: "timeout", Message: "timeout: must be more than 0"})
	}
	if p.MaxOutput <= 0 {
		problems = append(problems, watchers.Problem{Property: "max_output", Message: "max_output: must be more than 0"})
	}
	if p.Disown {
		problems = append(problems, p.checkDisown()...)
	}
	return problems
}

// checkDisown refuses what nobody would do for a command that is let go.
func (p *Properties) checkDisown() []watchers.Problem {
	var problems []watchers.Problem
	d := defaults()
	for _, other := range []struct {
		name string
		set  bool
	}{
		{"timeout", p.Timeout != d.Timeout},
		{"kill_grace", p.KillGrace != d.KillGrace},
		{"on_leave", p.OnLeave != d.OnLeave},
		{"retry", p.Retry != d.Retry},
		{"parse_as_data", p.ParseAsData},
		{"max_output", p.MaxOutput != d.MaxOutput},
	} {
		if other.set {
			problems = append(problems, watchers.Problem{Property: other.name,
				Message: other.name + ": does not go with disown: nobody waits for the command or reads what it prints"})
		}
	}
	return problems
}

// Environment is variables that a command gets besides the usual ones.
type Environment []Variable

// Variable is one variable of the environment.
type Variable struct {
	Name  string
	Value datalayer.Template
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// UnmarshalJSON takes a list of strings of the form VAR=value.
func (e *Environment) UnmarshalJSON(raw []byte) error {
	texts, err := stringList(raw)
	if err != nil {
		return fmt.Errorf("must be a list of VAR=value: %w", err)
	}
	all := make(Environment, len(texts))
	for i, text := range texts {
		if all[i], err = parseVariable(text); err != nil {
			return fmt.Errorf("element %d: %w", i+1, err)
		}
	}
	*e = all
	return nil
}

func parseVariable(text string) (Variable, error) {
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return Variable{}, errors.New("write VAR=value")
	case !variableName.MatchString(name):
		return Variable{}, errors.New("a name is made of letters, digits and _, without a template: write VAR=value")
	case strings.HasPrefix(name, "LD_"), strings.HasPrefix(name, "DYLD_"),
		slices.Contains([]string{"BASH_ENV", "ENV", "IFS"}, name):
		return Variable{}, fmt.Errorf("%s is refused, because it changes what code a program is made of: set it in a script of your own", name)
	}
	template, err := datalayer.Parse(value)
	if err != nil {
		return Variable{}, fmt.Errorf("%s: %w", name, err)
	}
	return Variable{Name: name, Value: template}, nil
}

// OnLeave says what happens to a command when the visit ends in which it began.
type OnLeave string

// What may happen to it.
const (
	Finish OnLeave = "finish" // it goes on to its end
	Kill   OnLeave = "kill"   // it is ended
)

// UnmarshalJSON takes one of the two words.
func (o *OnLeave) UnmarshalJSON(raw []byte) error {
	var word string
	if json.Unmarshal(raw, &word) != nil || word != string(Finish) && word != string(Kill) {
		return fmt.Errorf("must be %s or %s", Finish, Kill)
	}
	*o = OnLeave(word)
	return nil
}

// Retry says how often and when a command that failed is run again. The zero
// value is never.
type Retry struct {
	Delay    watchers.Duration // the first pause; each one after it is twice as long
	MaxDelay watchers.Duration // no pause is longer
	Attempts int               // runs in all; 0 is until it succeeds or the visit ends
}

const (
	defaultAttempts = 5
	maxDelayFactor  = 10 // of the delay, when there is no max_delay
)

// UnmarshalJSON takes the first pause alone, or an object.
func (r *Retry) UnmarshalJSON(raw []byte) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		fields = map[string]json.RawMessage{"delay": raw}
	}
	retry := Retry{Attempts: defaultAttempts}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var err error
		switch name {
		case "delay":
			err = retry.Delay.UnmarshalJSON(fields[name])
		case "max_delay":
			err = retry.MaxDelay.UnmarshalJSON(fields[name])
		case "attempts":
			retry.Attempts, err = parseCount(fields[name])
		default:
			err = errors.New("no such key: there are delay, max_delay and attempts")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if retry.Delay <= 0 {
		return errors.New("delay: must be more than 0, such as 5s")
	}
	if _, set := fields["max_delay"]; !set {
		retry.MaxDelay = max(retry.Delay, min(retry.Delay, math.MaxInt64/maxDelayFactor)*maxDelayFactor)
	}
	if retry.MaxDelay < retry.Delay {
		return errors.New("max_delay: must not be less than delay")
	}
	*r = retry
	return nil
}

// pause returns how long to wait after the given number of runs that failed, and
// whether to run again at all.
func (r Retry) pause(failed int) (time.Duration, bool) {
	if r.Delay == 0 || r.Attempts > 0 && failed >= r.Attempts {
		return 0, false
	}
	pause := r.Delay
	for range failed - 1 {
		if pause > r.MaxDelay/2 {
			pause = r.MaxDelay
			break
		}
		pause *= 2
	}
	return time.Duration(pause), true
}

// Bytes is an amount of memory.
type Bytes int

// UnmarshalJSON takes a whole number.
func (b *Bytes) UnmarshalJSON(raw []byte) error {
	n, err := parseCount(raw)
	if err == nil {
		*b = Bytes(n)
	}
	return err
}

// maxCount keeps what is multiplied or allocated within reason.
const maxCount = 1 << 30

// parseCount reads a whole number, also in a form like 1e6, which a YAML library
// may have given it.
func parseCount(raw []byte) (int, error) {
	n, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || n != math.Trunc(n) || n < 0 || n > maxCount {
		return 0, fmt.Errorf("must be a whole number from 0 to %d", maxCount)
	}
	return int(n), nil
}
