/** `HANSARD_MUTANT=NAME node --import …/register.js FILE`: FILE runs with that bug planted. */
import { register } from 'node:module';

register('./hooks.js', import.meta.url, { data: { name: process.env.HANSARD_MUTANT ?? '' } });
