package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// An event is a command of the MTA, and the protocol bits by which a milter says that it doesn't want it, or won't answer.
type event struct {
	unwanted, unanswered uint32
}

// events returns what libmilter's mfdef.h calls SMFIP_NO* and SMFIP_NR_*.
func events() map[byte]event {
	return map[byte]event{
		'C': {0x1, 0x1000},
		'H': {0x2, 0x2000},
		'M': {0x4, 0x4000},
		'R': {0x8, 0x8000},
		'B': {0x10, 0x80000},
		'L': {0x20, 0x80},
		'N': {0x40, 0x40000},
		'U': {0x100, 0x20000},
		'T': {0x200, 0x10000},
		'E': {},
	}
}

// Play says the MTA's half of a recorded session to a milter and returns what it answered, in order.
//
// It behaves as the MTA would have with these answers, not with the recorded ones: events this milter doesn't want
// aren't sent, answers it said it won't give aren't waited for, and after it accepted, discarded or refused a whole
// message or connection the rest of that isn't sent. It never asks less: what an MTA does between a refused
// recipient and the end of a message was recorded.
//
// A session that ends without Q ends with the connection left open. Errors tell the packet that was sent last.
func Play(ctx context.Context, conn net.Conn, session Session) (got []Packet, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	p := player{conn: conn, events: events()}
	for i, packet := range session {
		if packet.From != FromMTA {
			continue
		}
		if err := p.play(packet); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return p.got, fmt.Errorf("packet %d, %s: %w", i+1, packet, err)
		}
	}
	return p.got, nil
}

type player struct {
	conn     net.Conn
	events   map[byte]event
	protocol uint32 // as the milter answered
	over     byte   // 0; M: the rest of the message isn't asked; C: of the connection
	got      []Packet
}

func (p *player) play(packet Packet) error {
	kind := packet.Kind
	if kind == 'D' && len(packet.Data) > 0 {
		kind = packet.Data[0] // macros come just before their event
	}
	if p.over == 'M' && (kind == 'M' || kind == 'A') {
		p.over = 0
	}
	e, isEvent := p.events[kind]
	if isEvent && p.over != 0 {
		return nil
	}
	// Macros of an unwanted event are sent all the same: both MTAs do so at connect and HELO, Postfix at DATA too.
	if packet.Kind != 'D' && p.protocol&e.unwanted != 0 {
		return nil
	}
	if err := packet.Write(p.conn); err != nil {
		return err
	}
	switch {
	case packet.Kind == 'O':
		return p.negotiated()
	case packet.Kind == 'D', !isEvent, p.protocol&e.unanswered != 0:
		return nil
	}
	return p.answered(kind)
}

// negotiated reads the milter's wishes.
func (p *player) negotiated() error {
	answer, err := p.read()
	if err != nil {
		return err
	}
	if answer.Kind != 'O' || len(answer.Data) < 12 {
		return fmt.Errorf("answer %s: want a negotiation", answer)
	}
	p.protocol = binary.BigEndian.Uint32(answer.Data[8:])
	return nil
}

// answered reads up to the answer that ends the event.
func (p *player) answered(kind byte) error {
	for {
		answer, err := p.read()
		if err != nil {
			return err
		}
		if strings.IndexByte("cs", answer.Kind) >= 0 {
			return nil
		}
		if strings.IndexByte("ardty", answer.Kind) >= 0 {
			// A recipient that is refused is alone in that; all else concerns the message, or the client.
			if kind != 'R' || strings.IndexByte("ad", answer.Kind) >= 0 {
				p.over = 'M'
			}
			if kind == 'C' || kind == 'H' {
				p.over = 'C'
			}
			return nil
		}
		if kind != 'E' || strings.IndexByte("+-2behimpq", answer.Kind) < 0 {
			return fmt.Errorf("answer %s: not one that this event may have", answer)
		}
	}
}

func (p *player) read() (Packet, error) {
	answer, err := ReadPacket(p.conn, FromMilter)
	if err != nil {
		return Packet{}, errors.Join(errors.New("no answer"), err)
	}
	p.got = append(p.got, answer)
	return answer, nil
}
