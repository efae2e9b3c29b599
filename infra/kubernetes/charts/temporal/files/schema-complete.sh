for database in $DATABASES; do
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$database" \
    --command "COMMENT ON DATABASE \"$database\" IS 'temporal schema: complete'"
done
echo "the schema is complete"
