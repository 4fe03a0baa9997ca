// franz-go with its registry client: register, produce, consume, evolve, be refused. The task comes on stdin as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/pkg/sr"
)

type user struct{ Name, Password string }

type work struct {
	URL, Bootstrap, Topic, Group string
	Writer, Reader               user
	Schemas                      []json.RawMessage
}

var task work

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func registry(who user) *sr.Client {
	return must(sr.NewClient(sr.URLs(task.URL), sr.BasicAuth(who.Name, who.Password)))
}

func kafka(who user, more ...kgo.Opt) *kgo.Client {
	login := scram.Auth{User: who.Name, Pass: who.Password}.AsSha512Mechanism()
	return must(kgo.NewClient(append(more, kgo.SeedBrokers(task.Bootstrap), kgo.SASL(login))...))
}

func schema(number int) sr.Schema {
	return sr.Schema{Schema: string(task.Schemas[number]), Type: sr.TypeAvro}
}

func produce(ctx context.Context, number int, value map[string]any) {
	registered := must(registry(task.Writer).CreateSchema(ctx, task.Topic+"-value", schema(number)))
	var serde sr.Serde
	parsed := must(avro.Parse(string(task.Schemas[number])))
	serde.Register(registered.ID, map[string]any{}, sr.EncodeFn(func(v any) ([]byte, error) { return avro.Marshal(parsed, v) }))
	client := kafka(task.Writer)
	defer client.Close()
	record := &kgo.Record{Topic: task.Topic, Value: must(serde.Encode(value))}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		panic(err)
	}
}

func consume(ctx context.Context, count int) []map[string]any {
	client := kafka(task.Reader, kgo.ConsumerGroup(task.Group), kgo.ConsumeTopics(task.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	defer client.Close()
	var header sr.ConfluentHeader
	known := registry(task.Reader)
	read := []map[string]any{}
	for len(read) < count && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			id, body, err := header.DecodeID(record.Value)
			if err != nil {
				panic(err)
			}
			found := must(known.SchemaByID(ctx, id))
			value := map[string]any{}
			if err := avro.Unmarshal(must(avro.Parse(found.Schema)), body, &value); err != nil {
				panic(err)
			}
			read = append(read, value)
		})
	}
	return read
}

func refusal(ctx context.Context, who user, given sr.Schema) int {
	_, err := registry(who).CreateSchema(ctx, task.Topic+"-value", given)
	var refused *sr.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	must(0, err)
	return 200
}

func main() {
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		panic(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	subject := task.Topic + "-value"
	produce(ctx, 0, map[string]any{"name": "Nguyễn"})
	produce(ctx, 1, map[string]any{"name": "Trần", "year": 1990})
	writer := registry(task.Writer)
	compatible := []bool{}
	for _, number := range []int{1, 2} {
		compatible = append(compatible, must(writer.CheckCompatibility(ctx, subject, -1, schema(number))).Is)
	}
	other := sr.Schema{Schema: `{"type": "record", "name": "Other", "fields": []}`}
	saw := map[string]any{
		"client":     "franz-go",
		"read":       consume(ctx, 2),
		"versions":   must(writer.SubjectVersions(ctx, subject)),
		"subjects":   must(registry(task.Reader).Subjects(ctx)),
		"compatible": compatible,
		"refused":    refusal(ctx, task.Writer, schema(2)),
		"forbidden":  refusal(ctx, task.Reader, other),
	}
	if err := json.NewEncoder(os.Stdout).Encode(saw); err != nil {
		panic(err)
	}
}
