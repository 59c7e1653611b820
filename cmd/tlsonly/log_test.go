package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
)

// With hashes no local part and no login is in the log, in whatever place it stands; one address is one word.
func TestLogHash(t *testing.T) {
	var out bytes.Buffer
	log := newLog(&out, config.Log{Hash: true}, new(slog.LevelVar))
	log.Info("decision", "from", "Doctor@clinic.example", "rcpt", addr.MustAddress("bob+x@good.example"), "rule", "clinic", "user", "Alice",
		"destination", "good.example", "err", `forward to mallory@far.example by alias (carol@clinic.example): <"trudy x"@far.example>, doctor@clinic.example`)
	text := out.String()
	for _, secret := range []string{"Doctor", "doctor", "bob", "Alice", "alice", "mallory", "carol", "trudy", "x\""} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the log: %s", secret, text)
		}
	}
	for _, kept := range []string{"@clinic.example", "@good.example", "@far.example", "destination=good.example", "rule=clinic", "msg=decision"} {
		if !strings.Contains(text, kept) {
			t.Errorf("%q is not in the log: %s", kept, text)
		}
	}
	h := hasher(logKey())
	if one := h.word("Doctor@Clinic.example"); strings.Count(text, one) != 2 {
		t.Errorf("%s isn't the word for both forms: %s", one, text)
	}
	if hasher("another host").word("doctor@clinic.example") == h.word("doctor@clinic.example") {
		t.Error("all hosts have the same words")
	}
}

func TestLogFormat(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	log := newLog(&out, config.Log{JSON: true, Level: slog.LevelWarn}, level)
	log.Info("not told")
	log.Warn("told", "from", "doctor@clinic.example")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "told" || line["from"] != "doctor@clinic.example" {
		t.Errorf("%s, %v", &out, err)
	}
	out.Reset()
	level.Set(slog.LevelInfo)
	log.Info("told now")
	if !strings.Contains(out.String(), "told now") {
		t.Error("the level can't be changed")
	}
}
