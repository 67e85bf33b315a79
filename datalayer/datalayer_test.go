package datalayer

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncode(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{nil, `null`},
		{"bob", `"bob"`},
		{"<a href=\"x\">&", `"<a href=\"x\">&"`},
		{[]byte("bob"), `"bob"`},
		{[]byte{0xff, 0xfe}, `{"base64":"//4="}`},
		{"\xff", `{"base64":"/w=="}`},
		{1234567, `1234567`},
		{1234567.0, `1234567`},
		{123456789012.0, `123456789012`},
		{json.Number("1.50"), `1.50`},
		{json.Number("12345678901234567890"), `12345678901234567890`},
		{json.RawMessage("{ \"b\" : 1.0,\n \"a\":[ ] }"), `{"b":1.0,"a":[]}`},
		{map[string]any{"b": true, "a": []int{1}}, `{"a":[1],"b":true}`},
	} {
		got, err := Encode(test.value)
		if err != nil || string(got) != test.want {
			t.Errorf("Encode(%#v) = %s, %v, want %s", test.value, got, err, test.want)
		}
	}
}

// refusing is a value whose encoding fails with the value in the error.
type refusing struct{}

func (refusing) MarshalJSON() ([]byte, error) { return []byte(`{"hunter2": hunter2}`), nil }

func TestEncodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for _, value := range []any{math.NaN(), func() {}, json.RawMessage(`hunter2`), json.RawMessage(deep), refusing{}} {
		_, err := Encode(value)
		if err == nil {
			t.Errorf("Encode(%T) did not fail", value)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error of Encode(%T) holds the value: %v", value, err)
		}
	}
}

func TestDecodeKeepsDigits(t *testing.T) {
	got, err := Decode([]byte(`{"a":[1234567, 1.50, "x", null, true]}`))
	want := map[string]any{"a": []any{json.Number("1234567"), json.Number("1.50"), "x", nil, true}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v, -want +got:\n%s", err, diff)
	}
	for _, broken := range []string{``, `{`, `{} {}`, "\"\xff\"", strings.Repeat("[", 1_000_000)} {
		if v, err := Decode([]byte(broken)); err == nil {
			t.Errorf("Decode(%.20q) = %v and no error", broken, v)
		}
	}
}

func TestFromBytes(t *testing.T) {
	bomb := strings.Repeat("[", 1_000_000)
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for _, test := range []struct{ value, want string }{
		{``, `""`},
		{`bob`, `"bob"`},
		{`5`, `"5"`},
		{`1.50`, `"1.50"`},
		{`true`, `"true"`},
		{`"bob"`, `"\"bob\""`},
		{"a\nb\x00<&>", `"a\nb\u0000<&>"`},
		{" {\"z\" : 1.50, \"a\":12345678901234567890}\n", `{"z":1.50,"a":12345678901234567890}`},
		{`["<", 1e6]`, `["<",1e6]`},
		{`{"a":`, `"{\"a\":"`},
		{`{"a":1} x`, `"{\"a\":1} x"`},
		{`[1,]`, `"[1,]"`},
		{"\xff\xfe", `{"base64":"//4="}`},
		{"{\"a\":\"\xff\"}", `{"base64":"eyJhIjoi/yJ9"}`},
		{`["\"` + bomb + `"]`, `["\"` + bomb + `"]`}, // deep is only its text
		{bomb, `"` + bomb + `"`},
		{deep, `"` + deep + `"`},
		{deep[1 : len(deep)-1], deep[1 : len(deep)-1]},
	} {
		if got := FromBytes([]byte(test.value)); string(got) != test.want {
			t.Errorf("FromBytes(%.40q) = %.60s, want %.60s", test.value, got, test.want)
		}
	}
}

func TestFromBytesLeavesItsArgument(t *testing.T) {
	value := []byte(` {"a": 1} `)
	got := FromBytes(value)
	copy(value, bytes.Repeat([]byte("x"), len(value)))
	if string(got) != `{"a":1}` {
		t.Errorf("the value changed with the argument: %s", got)
	}
}

func FuzzFromBytes(f *testing.F) {
	for _, seed := range []string{"", "bob", " {\"a\": 1.50}", "[1,2", "\xff", `{"a":{"a":[1e400,"\ud800"]}}`, "\ufeff{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		got := FromBytes(value)
		if err := checkJSON(got, MaxDepth); err != nil {
			t.Fatalf("FromBytes(%q) = %q: %v", value, got, err)
		}
		decoded, err := Decode(got)
		if err != nil {
			t.Fatal(err)
		}
		switch decoded := decoded.(type) {
		case string:
			if decoded != string(value) {
				t.Errorf("FromBytes(%q) is the string %q", value, decoded)
			}
		default:
			original, err := Decode(value)
			if err != nil { // not UTF-8
				original = map[string]any{"base64": base64Of(value)}
			}
			if diff := cmp.Diff(original, decoded); diff != "" {
				t.Errorf("FromBytes(%q), -want +got:\n%s", value, diff)
			}
		}
	})
}
