// Everything down to the first read of standard input happens once, when the image is built.

// Go 1.24 made rand.Seed do nothing unless this says otherwise. Top-level functions of math/rand draw from one generator, which was seeded
// when the program started: to seed it again is what makes them differ from call to call.
//
//go:debug randseednop=0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"regexp"
)

var words = regexp.MustCompile(`[A-Za-z']+`)
var greetings = map[string]string{"en": "Hello", "de": "Hallo", "fr": "Bonjour"}

type event struct {
	Name, Lang, Text string
	Random           bool
}

type answer struct {
	Greeting string  `json:"greeting"`
	Words    int     `json:"words"`
	Longest  *string `json:"longest"`
	Pick     *int64  `json:"pick,omitempty"`
}

func handle(text []byte) (answer, error) {
	var in event
	if err := json.Unmarshal(text, &in); err != nil {
		return answer{}, err
	}
	greeting, ok := greetings[in.Lang]
	if !ok {
		greeting = "Hi"
	}
	if in.Name == "" {
		in.Name = "world"
	}
	found := words.FindAllString(in.Text, -1)
	out := answer{Greeting: greeting + ", " + in.Name, Words: len(found)}
	for i, word := range found {
		if out.Longest == nil || len(word) > len(*out.Longest) {
			out.Longest = &found[i]
		}
	}
	if in.Random {
		pick := rand.Int63()
		out.Pick = &pick
	}
	return out, nil
}

func reseed() error {
	file, err := os.Open("/preheat/random")
	if err != nil {
		return err
	}
	defer file.Close()
	var seed [8]byte
	if _, err := io.ReadFull(file, seed[:]); err != nil {
		return err
	}
	var value int64
	for _, b := range seed {
		value = value<<8 | int64(b)
	}
	rand.Seed(value)
	return nil
}

func fail(err error) {
	fmt.Printf("{\"error\":%q}\n", err.Error())
	os.Exit(1)
}

func main() {
	text, err := io.ReadAll(os.Stdin) // here it is frozen, and here each call wakes
	if err == nil {
		err = reseed()
	}
	if err != nil {
		fail(err)
	}
	out, err := handle(text)
	if err != nil {
		fail(err)
	}
	bytes, _ := json.Marshal(out)
	os.Stdout.Write(append(bytes, '\n'))
	os.Exit(0)
}
