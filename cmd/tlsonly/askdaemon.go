package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
)

// configFile says which state of which file a daemon goes by.
type configFile struct {
	File     string    `json:"file"`
	Modified time.Time `json:"modified"`
	Size     int64     `json:"size"`
}

// stateOf returns what a file is like now; the zero value for none.
func stateOf(file string) configFile {
	path, err := filepath.Abs(file)
	if err != nil {
		return configFile{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return configFile{}
	}
	return configFile{File: path, Modified: info.ModTime().UTC(), Size: info.Size()}
}

// dialDaemon is how long a daemon on this host may take to answer at all.
const dialDaemon = 2 * time.Second

// askDaemon has the running daemon explain, by [http], what it is asked. It is
// false where none answers, or one that goes by another state of the file; why
// says so, "" where there is none. E is the answer, with the state of its file.
func askDaemon[E interface{ goesBy() *configFile }](
	ctx context.Context, c *config.Config, file string, asked map[string]string,
) (e E, why string, ok bool) {
	var none E
	host, port, err := net.SplitHostPort(c.HTTP.Listen)
	if err != nil || os.Getenv(asVariable) != "" {
		return e, "", false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if c.HTTP.Cert != "" {
		scheme = "https"
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return e, err.Error(), false
	}
	ctx, cancel := context.WithTimeout(ctx, c.Milter.Deadline+dialDaemon)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+net.JoinHostPort(host, port)+"/v1/explain", bytes.NewReader(body))
	if err != nil {
		return e, err.Error(), false
	}
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{
		Proxy:       nil,
		DialContext: (&net.Dialer{Timeout: dialDaemon}).DialContext,
		// It is this host's own; what it says of itself is believed no further than its answer.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // #nosec G402 -- on this host
	}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return e, "", false
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	switch {
	case err != nil:
		return e, err.Error(), false
	case answer.StatusCode == http.StatusUnauthorized:
		return e, "[http] has a password", false
	case answer.StatusCode != http.StatusOK:
		var problem struct{ Detail string }
		_ = json.Unmarshal(text, &problem) // else the status says it
		return e, fmt.Sprintf("it answered %s %s", answer.Status, problem.Detail), false
	}
	err = json.Unmarshal(text, &e)
	is := e.goesBy()
	if err != nil || is == nil {
		return none, "what answers there isn't this program", false
	}
	now := stateOf(file)
	if is.File != now.File {
		return none, "it goes by " + is.File, false
	}
	if !is.Modified.Equal(now.Modified) || is.Size != now.Size {
		return none, "the file has changed since it read it", false
	}
	return e, "", true
}

// path is an address as a question to the daemon has it.
func path(a addr.Address) string {
	if a.IsNull() {
		return "<>"
	}
	return a.String()
}
