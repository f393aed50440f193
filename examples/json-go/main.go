// Reads a JSON array of orders from standard input and writes their totals by customer, sorted by name, to standard output:
//
//	[{"customer":"Ada","item":"tea","price":250,"count":2}, …]  →  {"Ada":500, …, "total":…}
//
// Exit status 2 when the input is not such an array.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

func main() {
	totals, err := read(json.NewDecoder(bufio.NewReader(os.Stdin)))
	if err == nil {
		err = write(bufio.NewWriter(os.Stdout), totals)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "json: %v\n", err)
		os.Exit(2)
	}
}

// read goes through the tokens instead of into a struct, since encoding/json would match the names of fields whatever their case.
func read(input *json.Decoder) (map[string]int64, error) {
	input.UseNumber()
	totals := map[string]int64{}
	if err := expect(input, '['); err != nil {
		return nil, err
	}
	for input.More() {
		if err := order(input, totals); err != nil {
			return nil, err
		}
	}
	if err := expect(input, ']'); err != nil {
		return nil, err
	}
	if _, err := input.Token(); err != io.EOF {
		return nil, errors.New("something follows the array")
	}
	return totals, nil
}

func order(input *json.Decoder, totals map[string]int64) error {
	name, named, price, pieces := "", false, int64(0), int64(1)
	if err := expect(input, '{'); err != nil {
		return err
	}
	for input.More() {
		key, err := input.Token()
		if err != nil {
			return err
		}
		value, err := input.Token()
		if err != nil {
			return err
		}
		switch key {
		case "customer":
			name, named = value.(string)
			if !named {
				return errors.New("expected a string")
			}
		case "price":
			price, err = number(value)
		case "count":
			pieces, err = number(value)
		default:
			if _, text := value.(string); !text {
				_, err = number(value)
			}
		}
		if err != nil {
			return err
		}
	}
	if !named {
		return errors.New("an order without customer")
	}
	totals[name] += price * pieces
	return expect(input, '}')
}

func expect(input *json.Decoder, want json.Delim) error {
	if token, err := input.Token(); err != nil {
		return err
	} else if token != want {
		return fmt.Errorf("expected `%v`", want)
	}
	return nil
}

func number(value json.Token) (int64, error) {
	if digits, ok := value.(json.Number); ok {
		return digits.Int64()
	}
	return 0, errors.New("expected a number")
}

func write(output *bufio.Writer, totals map[string]int64) error {
	names := make([]string, 0, len(totals))
	for name := range totals {
		names = append(names, name)
	}
	slices.Sort(names)
	total := int64(0)
	output.WriteByte('{')
	for _, name := range names {
		quote(output, name)
		fmt.Fprintf(output, ":%d,", totals[name])
		total += totals[name]
	}
	fmt.Fprintf(output, "\"total\":%d}\n", total)
	return output.Flush()
}

// quote escapes as little as JSON allows, where encoding/json would also escape `<`, `>` and `&`.
func quote(output *bufio.Writer, text string) {
	output.WriteByte('"')
	for _, c := range []byte(text) {
		if c == '"' || c == '\\' {
			output.WriteByte('\\')
		}
		if c < 32 {
			fmt.Fprintf(output, "\\u%04x", c)
		} else {
			output.WriteByte(c)
		}
	}
	output.WriteByte('"')
}
