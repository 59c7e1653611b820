package web

import (
	"context"
	"errors"
	"html/template"
	"mime"
	"net/http"
	"net/url"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Explanation is what Config.Explain and Config.ExplainDelivery say: once for
// programs, once for people.
type Explanation struct {
	Answer any // can be written in JSON
	Parts  []Part
}

// Part is a decision, or one of several answers.
type Part struct {
	Title string // "" where it is the only one
	Facts []Fact
	Steps policy.Trace // how it came about
}

// Fact is one line of a Part. Names may repeat.
type Fact struct{ Name, Text string }

// explainQuestion is what POST /v1/explain and the page are asked: of acceptance,
// or with Delivery of delivery to a next hop.
type explainQuestion struct {
	From     string `json:"from"`
	To       string `json:"to"`
	User     string `json:"user"`
	Delivery string `json:"delivery"`
}

func (s *Server) postExplain(r *http.Request) (any, error) {
	var asked explainQuestion
	if err := readBody(r, &asked); err != nil {
		return nil, err
	}
	e, err := s.explain(r, asked)
	return e.Answer, err
}

// explain answers a question. The error is a refusal where the question is wrong.
func (s *Server) explain(r *http.Request, asked explainQuestion) (Explanation, error) {
	work, err := s.explaining(asked)
	if err != nil {
		return Explanation{}, err
	}
	release, err := slot(r.Context(), s.slow)
	if err != nil {
		return Explanation{}, err
	}
	defer release()
	return work(r.Context()), nil
}

// explaining reads a question; what it returns answers it.
func (s *Server) explaining(asked explainQuestion) (func(context.Context) Explanation, error) {
	if asked.Delivery != "" {
		return s.explainingDelivery(asked)
	}
	if s.c.Explain == nil {
		return nil, absent("explaining")
	}
	from, err := addr.ParsePath(asked.From)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "from: %v", err)
	}
	if asked.From == "" && asked.User == "" {
		return nil, refuse(http.StatusBadRequest, `want from ("<>" for the empty sender) or user`)
	}
	to, err := addr.ParsePath(asked.To)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "to: %v", err)
	}
	if to.IsNull() {
		return nil, refuse(http.StatusBadRequest, "to: want an address")
	}
	return func(ctx context.Context) Explanation { return s.c.Explain(ctx, from, to, asked.User) }, nil
}

func (s *Server) explainingDelivery(asked explainQuestion) (func(context.Context) Explanation, error) {
	if s.c.ExplainDelivery == nil {
		return nil, absent("[socketmap] listen")
	}
	to, err := addr.ParseDestination(asked.Delivery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "delivery: %v", err)
	}
	var from *addr.Address
	var recipient addr.Address
	if asked.User != "" {
		return nil, refuse(http.StatusBadRequest, "user: no login is known at delivery")
	}
	if asked.From != "" {
		a, err := addr.ParsePath(asked.From)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "from: %v", err)
		}
		from = &a
	}
	if asked.To != "" {
		if recipient, err = wantAddress("to", asked.To); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) Explanation {
		return s.c.ExplainDelivery(ctx, to, from, recipient)
	}, nil
}

// The page

type explainBody struct {
	Acceptance, Delivery explainQuestion // what stands in the two forms
	Accepts, Delivers    bool            // each is set up
	Parts                []Part
	Wrong                string
}

// explainForm shows the forms, filled in from the query. It answers nothing: an
// answer may take a probe, and a GET can be caused by a page of another site.
func (s *Server) explainForm(r *http.Request) (*template.Template, view, error) {
	return s.explainPage(explainOf(r.URL.Query()), explainBody{}, http.StatusOK)
}

// explainAnswer shows an answer below the forms.
func (s *Server) explainAnswer(r *http.Request) (*template.Template, view, error) {
	form, err := readForm(r)
	if err != nil {
		return nil, view{}, err
	}
	asked := explainOf(form)
	e, err := s.explain(r, asked)
	b, status := explainBody{Parts: e.Parts}, http.StatusOK
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		b.Wrong, status = refused.detail, refused.status
	} else if err != nil {
		return nil, view{}, err
	}
	return s.explainPage(asked, b, status)
}

func (s *Server) explainPage(asked explainQuestion, b explainBody, status int) (*template.Template, view, error) {
	b.Accepts, b.Delivers = s.c.Explain != nil, s.c.ExplainDelivery != nil
	if asked.Delivery != "" {
		b.Delivery = asked
	} else {
		b.Acceptance = asked
	}
	return s.pages.explain, view{Title: "Explain", Here: "/explain", Status: status, Body: b}, nil
}

func explainOf(v url.Values) explainQuestion {
	return explainQuestion{From: v.Get("from"), To: v.Get("to"), User: v.Get("user"), Delivery: v.Get("delivery")}
}

// readForm reads the fields of a form that a page of ours sent. A browser says
// so of itself: by Sec-Fetch-Site, or by Origin, which the guard has compared.
// Programs have the JSON interface.
func readForm(r *http.Request) (url.Values, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return nil, refuse(http.StatusUnsupportedMediaType, "want a form; programs ask /v1/explain")
	}
	if r.Header.Get("Sec-Fetch-Site") != "same-origin" && r.Header.Get("Origin") == "" {
		return nil, refuse(http.StatusForbidden, "only a page from here can send this form; programs ask /v1/explain")
	}
	var large *http.MaxBytesError
	switch err := r.ParseForm(); {
	case errors.As(err, &large):
		return nil, refuse(http.StatusRequestEntityTooLarge, "want %d octets at most", large.Limit)
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "form: %v", err)
	}
	return r.PostForm, nil
}

// explainPath is the page with one field filled in; "" where the value can't be
// one: the owner of a forward may be a pattern.
func explainPath(field, value string) string {
	if _, err := wantAddress(field, value); field == "to" && err != nil {
		return ""
	}
	return "/explain?" + url.Values{field: {value}}.Encode()
}
