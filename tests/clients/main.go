package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type value struct {
	N *int `json:"n"`
}

func one(n int, offset int64) (any, error) {
	if n < 0 {
		return nil, errors.New("negative")
	}
	if n == 99 {
		os.Exit(1)
	}
	return map[string]any{"twice": 2 * n, "offset": offset}, nil
}

func handle(ctx context.Context, event json.RawMessage) (any, error) {
	var single value
	if json.Unmarshal(event, &single) == nil && single.N != nil {
		known, _ := lambdacontext.FromContext(ctx)
		var facts struct{ Offset int64 }
		if err := json.Unmarshal([]byte(known.ClientContext.Custom["millrace"]), &facts); err != nil {
			return nil, err
		}
		return one(*single.N, facts.Offset)
	}
	var batch events.KafkaEvent
	if err := json.Unmarshal(event, &batch); err != nil {
		return nil, err
	}
	outputs, failures := []any{}, []any{}
	for group, records := range batch.Records {
		for _, record := range records {
			source := map[string]any{"partition": group, "offset": record.Offset}
			bytes, _ := json.Marshal(record.Value)
			var text []byte
			if err := json.Unmarshal(bytes, &text); err != nil {
				return nil, err
			}
			var it value
			if err := json.Unmarshal(text, &it); err != nil {
				return nil, err
			}
			if made, err := one(*it.N, record.Offset); err == nil {
				outputs = append(outputs, map[string]any{"value": made, "source": source})
			} else {
				failures = append(failures, map[string]any{"itemIdentifier": source})
			}
		}
	}
	return map[string]any{"batchItemFailures": failures, "$outputs": outputs}, nil
}

func main() { lambda.Start(handle) }
